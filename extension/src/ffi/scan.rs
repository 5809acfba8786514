//! Events that a certain index finds. A planner would choose by statistics, which are older than the rows.

use super::table_cache::TableCache;
use super::uuid::Uuid;
use super::values;
use pgrx::pg_sys::{self, AttrNumber, Datum, Oid, RegProcedure, ScanKeyData, StrategyNumber};
use std::ffi::CStr;

/// Events that one transaction has written.
#[derive(Clone, Copy)]
pub struct Written {
    pub transaction_id: i64,
    pub after: i64,
    pub up_to: i64,
}

/// The events of one entity, and the request ID of one of them.
#[derive(Clone, Copy)]
pub struct Requested<'a> {
    pub entity_id: Uuid,
    pub request_id: &'a str,
}

/// The part of a table in the search for a request ID.
#[derive(Clone, Copy, Default)]
pub struct Part {
    /// The ID of the event.
    pub found: Option<i64>,
    /// Whether the first event of the entity is here.
    pub has_first: bool,
}

/// The columns, and the indexes on two of them each; invalid if an administrator has dropped it.
#[derive(Clone, Copy)]
struct Access {
    id: AttrNumber,
    transaction_id: AttrNumber,
    entity_id: AttrNumber,
    version: AttrNumber,
    request_id: AttrNumber,
    by_transaction: Oid,
    by_entity: Oid,
}

impl Written {
    /// Appends the ids in a table, in ascending order, until there are `most`, by the snapshot of the current statement.
    pub fn find(self, table: Oid, most: usize, ids: &mut Vec<i64>) {
        let room = most.saturating_sub(ids.len());
        let began = ids.len();
        // SAFETY: the columns are the table's own, NOT NULL, and of the types of the functions.
        let is_ordered = unsafe {
            let table = Open::new(table);
            let access = table.access;
            let mut keys = [
                key(access.transaction_id, pg_sys::BTEqualStrategyNumber, pg_sys::F_XID8EQ, self.transaction_id.into()),
                key(access.id, pg_sys::BTGreaterStrategyNumber, pg_sys::F_INT8GT, self.after.into()),
                key(access.id, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT8LE, self.up_to.into()),
            ];
            let is_ordered = table.scan(access.by_transaction, &mut keys, |row, is_ordered| {
                ids.extend(table.i64(row, access.id));
                !is_ordered || ids.len() - began < room
            });
            table.close();
            is_ordered
        };
        if !is_ordered {
            ids[began..].sort_unstable();
            ids.truncate(most);
        }
    }
}

impl Requested<'_> {
    /// Searches a table by the current snapshot.
    pub fn find(self, table: Oid) -> Part {
        let mut part = Part::default();
        // SAFETY: as above. The entity's ID outlives the scan.
        unsafe {
            let table = Open::new(table);
            let access = table.access;
            let id = self.entity_id.as_datum();
            let mut keys = [key(access.entity_id, pg_sys::BTEqualStrategyNumber, pg_sys::F_UUID_EQ, id)];
            table.scan(access.by_entity, &mut keys, |row, _| {
                part.has_first |= table.i64(row, access.version) == Some(1);
                if table.get(row, access.request_id).is_some_and(|of_row| values::text(of_row) == self.request_id) {
                    part.found = table.i64(row, access.id);
                }
                part.found.is_none()
            });
            table.close();
        }
        part
    }
}

/// Whether a relation is a table with rows of its own.
pub fn is_plain(relation: Oid) -> bool {
    // SAFETY: a catalog look-up.
    (unsafe { pg_sys::get_rel_relkind(relation) }) as u8 == pg_sys::RELKIND_RELATION
}

/// The history, or a partition of it, open to be read.
struct Open {
    relation: pg_sys::Relation,
    access: Access,
}

impl Open {
    fn new(table: Oid) -> Open {
        // SAFETY: the lock keeps the table and its indexes. An error unwinds, and the end of the (sub)transaction closes
        // what is open.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
            Open { relation, access: access(relation) }
        }
    }

    /// Calls `visit` with each row, and with whether rows come in the order of the index, until it returns false. Returns
    /// whether they did.
    ///
    /// # Safety
    /// The keys must be of the index's columns and their types.
    unsafe fn scan(
        &self,
        index: Oid,
        keys: &mut [ScanKeyData],
        mut visit: impl FnMut(pg_sys::HeapTuple, bool) -> bool,
    ) -> bool {
        // SAFETY: the table is open, and the active snapshot lives as long as the statement.
        unsafe {
            let (has_index, snapshot) = (index != Oid::INVALID, pg_sys::GetActiveSnapshot());
            let (count, keys) = (keys.len() as i32, keys.as_mut_ptr());
            let scan = pg_sys::systable_beginscan(self.relation, index, has_index, snapshot, count, keys);
            // Without the index the rows come in any order.
            let is_ordered = !(*scan).irel.is_null();
            loop {
                let row = pg_sys::systable_getnext(scan);
                if row.is_null() || !visit(row, is_ordered) {
                    break;
                }
            }
            pg_sys::systable_endscan(scan);
            is_ordered
        }
    }

    /// Closes the table; its lock stays.
    fn close(self) {
        // SAFETY: it is open.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as i32) }
    }

    /// # Safety
    /// The row must be of this table.
    unsafe fn get(&self, row: pg_sys::HeapTuple, column: AttrNumber) -> Option<Datum> {
        let mut is_null = false;
        // SAFETY: the caller's promise; the column exists.
        let value = unsafe { pg_sys::htup::heap_getattr(row, column.into(), (*self.relation).rd_att, &mut is_null) };
        (!is_null).then_some(value)
    }

    /// # Safety
    /// The row must be of this table, and the column a bigint.
    unsafe fn i64(&self, row: pg_sys::HeapTuple, column: AttrNumber) -> Option<i64> {
        // SAFETY: the caller's promise.
        unsafe { self.get(row, column) }.map(|value| value.value() as i64)
    }
}

fn key(column: AttrNumber, strategy: u32, function: u32, value: Datum) -> ScanKeyData {
    let mut key = ScanKeyData::default();
    let (strategy, function) = (strategy as StrategyNumber, RegProcedure::from(function));
    // SAFETY: fills the key in; the function exists in every database.
    unsafe { pg_sys::ScanKeyInit(&raw mut key, column, strategy, function, value) };
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
        let (entity_id, version) = (column(relation, c"entity_id"), column(relation, c"version"));
        Access {
            id,
            transaction_id,
            entity_id,
            version,
            request_id: column(relation, c"request_id"),
            by_transaction: index_on(relation, [transaction_id, id]),
            by_entity: index_on(relation, [entity_id, version]),
        }
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
