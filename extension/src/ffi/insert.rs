//! Inserting rows without planning a statement, as the apply worker of logical replication does.
//!
//! Indexes, constraints and triggers of the table work as usual; permissions are not checked.

use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CString;

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

    /// Returns the table.
    pub fn oid(&self) -> Oid {
        // SAFETY: the table is open.
        unsafe { (*self.table).rd_id }
    }

    /// Returns the number of a column, from 1.
    pub fn column(&self, name: &str) -> usize {
        self.find_column(name).unwrap_or_else(|| panic!("the table has no column {name}"))
    }

    /// Returns the number of a column, from 1; `None` if there is none of this name.
    pub fn find_column(&self, name: &str) -> Option<usize> {
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the table is open, and so its descriptor lives.
        let number = unsafe { pg_sys::SPI_fnumber((*self.table).rd_att, c_name.as_ptr()) };
        usize::try_from(number).ok().filter(|number| *number > 0)
    }

    /// Inserts a row with these values, each of its column's type. All other columns are null.
    pub fn insert(&self, values: &[(usize, Datum)]) {
        // SAFETY: the slot has natts values and null flags, and the columns are of this table.
        unsafe {
            let slot = &mut *self.slot;
            if let Some(clear) = (*slot.tts_ops).clear {
                clear(slot);
            }
            let width = (*(*self.table).rd_att).natts as usize;
            std::slice::from_raw_parts_mut(slot.tts_isnull, width).fill(true);
            for (column, value) in values {
                *slot.tts_values.add(column - 1) = *value;
                *slot.tts_isnull.add(column - 1) = false;
            }
            pg_sys::ExecStoreVirtualTuple(slot);
            pg_sys::ExecSimpleRelationInsert(self.target, self.executor, slot);
            let context = (*self.executor).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
        }
    }

    /// Closes the table; its lock stays.
    pub fn close(self) {
        // SAFETY: undoes what `open` did, in the opposite order.
        unsafe {
            pg_sys::AfterTriggerEndQuery(self.executor);
            pg_sys::ExecCloseIndices(self.target);
            pg_sys::ExecResetTupleTable((*self.executor).es_tupleTable, false);
            pg_sys::FreeExecutorState(self.executor);
            pg_sys::table_close(self.table, pg_sys::NoLock as i32);
        }
    }
}
