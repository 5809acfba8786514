//! Inserting rows into a table without planning a statement for it: the way of logical replication's apply worker.
//! Indexes, constraints and triggers of the table are served; permissions are not checked.

use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::{CStr, CString};

/// A table open for inserts.
pub struct Inserter {
    table: pg_sys::Relation,
    executor: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
}

/// The oid of a table or sequence of a schema; panics where there is none.
pub fn relation(schema: Oid, name: &CStr) -> Oid {
    // SAFETY: catalog look-up by a NUL-terminated name.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    assert!(oid != Oid::INVALID, "the extension's schema has no {name:?}");
    oid
}

/// The oid of a schema; an error where there is none.
pub fn schema(name: &CStr) -> Oid {
    // SAFETY: catalog look-up by a NUL-terminated name; false: an error where there is none.
    unsafe { pg_sys::get_namespace_oid(name.as_ptr(), false) }
}

/// Draws the next value of a sequence, whoever asks.
pub fn next_value(sequence: Oid) -> i64 {
    // SAFETY: the oid is a sequence's; false: no check of permissions.
    unsafe { pg_sys::nextval_internal(sequence, false) }
}

/// The current transaction's number, not that of a subtransaction.
pub fn transaction_id() -> Datum {
    // SAFETY: called within a transaction.
    Datum::from(unsafe { pg_sys::GetTopFullTransactionId() }.value)
}

impl Inserter {
    pub fn open(table: Oid) -> Inserter {
        // SAFETY: the lock is kept until the transaction ends, as for any insert. An error leaves by unwinding, and
        // the end of the (sub)transaction closes the table and frees the memory.
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

    /// What tells one shape of the table from another: its oid and how many columns it has had.
    pub fn shape(&self) -> (Oid, i32) {
        // SAFETY: the table is open.
        unsafe { ((*self.table).rd_id, (*(*self.table).rd_att).natts) }
    }

    /// The number (from 1) of a column.
    pub fn column(&self, name: &str) -> usize {
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the table is open, and so its descriptor lives.
        let number = unsafe { pg_sys::SPI_fnumber((*self.table).rd_att, c_name.as_ptr()) };
        assert!(number > 0, "the table has no column {name}");
        number as usize
    }

    /// Inserts a row of these values, each of its column's type; every other column is null.
    pub fn insert(&self, values: &[(usize, Datum)]) {
        // SAFETY: the slot has natts values and null flags, and the columns are of this table.
        unsafe {
            let slot = &mut *self.slot;
            if let Some(clear) = (*slot.tts_ops).clear {
                clear(slot);
            }
            std::slice::from_raw_parts_mut(slot.tts_isnull, self.shape().1 as usize).fill(true);
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
