//! Inserting rows without planning a statement, as the apply worker of logical replication does.
//!
//! Indexes, constraints and triggers of the table work as usual; permissions are not checked.

use super::rows::Rows;
use pgrx::pg_sys::{self, Oid};

/// A table open for inserts.
pub struct Inserter {
    table: pg_sys::Relation,
    executor: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Inserter {
    /// Opens a table.
    pub fn open(table: Oid) -> Inserter {
        // SAFETY: the lock stays until the transaction ends, as for any insert. An error unwinds, and the end of the
        // (sub)transaction closes the table and frees the memory.
        unsafe {
            let table = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
            let executor = pg_sys::CreateExecutorState();
            let target = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(target, table, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(target, false);
            pg_sys::AfterTriggerBeginQuery();
            let slot = pg_sys::table_slot_create(table, &raw mut (*executor).es_tupleTable);
            Inserter { table, executor, target, slot }
        }
    }

    /// Inserts rows.
    pub fn insert(&self, rows: &Rows) {
        for n in 0..rows.len() {
            // SAFETY: the slot has a value and a flag for each column, and the rows are of this table.
            unsafe {
                let slot = &mut *self.slot;
                if let Some(clear) = (*slot.tts_ops).clear {
                    clear(slot);
                }
                rows.fill(n, slot);
                pg_sys::ExecStoreVirtualTuple(slot);
                pg_sys::ExecSimpleRelationInsert(self.target, self.executor, slot);
                let context = (*self.executor).es_per_tuple_exprcontext;
                if !context.is_null() {
                    pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
                }
            }
        }
    }

    /// Closes the table; its lock stays.
    pub fn close(self) {
        // SAFETY: undoes what `open` did, in the opposite order.
        unsafe {
            pg_sys::AfterTriggerEndQuery(self.executor);
            // The triggers have opened the table once more.
            pg_sys::ExecCloseResultRelations(self.executor);
            pg_sys::ExecCloseIndices(self.target);
            pg_sys::ExecResetTupleTable((*self.executor).es_tupleTable, false);
            pg_sys::FreeExecutorState(self.executor);
            pg_sys::table_close(self.table, pg_sys::NoLock as i32);
        }
    }
}
