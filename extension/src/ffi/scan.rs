//! Rows that a certain index finds. A planner would choose by statistics, which are older than the rows.

use super::table_cache::TableCache;
use pgrx::pg_sys::{self, AttrNumber, Datum, Oid, RegProcedure, ScanKeyData, StrategyNumber};
use std::ffi::CStr;

/// Ids of rows that one transaction has written.
#[derive(Clone, Copy)]
pub struct Written {
    pub transaction_id: i64,
    pub after: i64,
    pub up_to: i64,
}

/// The columns, and the index on both; invalid if an administrator has dropped it.
#[derive(Clone, Copy)]
struct Access {
    id: AttrNumber,
    transaction_id: AttrNumber,
    index: Oid,
}

impl Written {
    /// Appends the ids in a table, in ascending order, until there are `most`, by the snapshot of the current statement.
    pub fn find(self, table: Oid, most: usize, ids: &mut Vec<i64>) {
        let room = most.saturating_sub(ids.len());
        let began = ids.len();
        // SAFETY: the lock keeps the table and its indexes; the columns are its own, NOT NULL, and of the types of the
        // functions. The snapshot lives as long as the statement. An error unwinds, and the end of the (sub)transaction
        // closes what is open.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
            let access = access(relation);
            let mut keys = [
                key(access.transaction_id, pg_sys::BTEqualStrategyNumber, pg_sys::F_XID8EQ, self.transaction_id),
                key(access.id, pg_sys::BTGreaterStrategyNumber, pg_sys::F_INT8GT, self.after),
                key(access.id, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT8LE, self.up_to),
            ];
            let (has_index, snapshot) = (access.index != Oid::INVALID, pg_sys::GetActiveSnapshot());
            let scan = pg_sys::systable_beginscan(
                relation,
                access.index,
                has_index,
                snapshot,
                keys.len() as i32,
                keys.as_mut_ptr(),
            );
            // Without the index the rows come in any order.
            let is_ordered = !(*scan).irel.is_null();
            while !is_ordered || ids.len() - began < room {
                let row = pg_sys::systable_getnext(scan);
                if row.is_null() {
                    break;
                }
                let mut is_null = false;
                let id = pg_sys::htup::heap_getattr(row, access.id.into(), (*relation).rd_att, &mut is_null);
                ids.push(id.value() as i64);
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            if !is_ordered {
                ids[began..].sort_unstable();
                ids.truncate(most);
            }
        }
    }
}

fn key(column: AttrNumber, strategy: u32, function: u32, value: i64) -> ScanKeyData {
    let mut key = ScanKeyData::default();
    let (strategy, function) = (strategy as StrategyNumber, RegProcedure::from(function));
    // SAFETY: fills the key in; the function exists in every database.
    unsafe { pg_sys::ScanKeyInit(&raw mut key, column, strategy, function, Datum::from(value)) };
    key
}

/// # Safety
/// The table must be open.
unsafe fn access(relation: pg_sys::Relation) -> Access {
    thread_local! {
        static KNOWN: TableCache<Access> = const { TableCache::new() };
    }
    // SAFETY: the caller's promise.
    let look_up = || unsafe {
        let (id, transaction_id) = (column(relation, c"id"), column(relation, c"transaction_id"));
        Access { id, transaction_id, index: index_on(relation, [transaction_id, id]) }
    };
    // SAFETY: as above.
    KNOWN.with(|known| known.get(unsafe { (*relation).rd_id }, look_up))
}

/// # Safety
/// The table must be open.
unsafe fn column(relation: pg_sys::Relation, name: &CStr) -> AttrNumber {
    // SAFETY: the caller's promise; the name is NUL-terminated.
    let number = unsafe { pg_sys::SPI_fnumber((*relation).rd_att, name.as_ptr()) };
    assert!(number > 0, "the table has no column {name:?}");
    number as AttrNumber
}

/// Finds a valid B-tree of all rows whose first columns are these; returns an invalid OID if there is none.
///
/// # Safety
/// The table must be open.
unsafe fn index_on(relation: pg_sys::Relation, columns: [AttrNumber; 2]) -> Oid {
    // SAFETY: the caller's promise. An index that is listed has a row in the catalog, with as many keys as it says.
    unsafe {
        let indexes = pg_sys::RelationGetIndexList(relation);
        let count = if indexes.is_null() { 0 } else { (*indexes).length };
        for n in 0..count as usize {
            let oid = (*(*indexes).elements.add(n)).oid_value;
            let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
            let of = &*(*index).rd_index;
            let keys = of.indkey.values.as_slice(of.indnkeyatts as usize);
            let suits = of.indisvalid
                && (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
                && keys.starts_with(&columns)
                && pg_sys::RelationGetIndexPredicate(index).is_null();
            pg_sys::index_close(index, pg_sys::AccessShareLock as i32);
            if suits {
                return oid;
            }
        }
        Oid::INVALID
    }
}
