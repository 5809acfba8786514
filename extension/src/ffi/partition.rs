//! A table that may be partitioned by ranges of a bigint, and the partition of a row.

use super::member;
use pgrx::pg_sys::{self, Datum, Oid, PartitionRangeDatumKind};
use std::ffi::CStr;

/// A table, locked until the transaction ends.
pub struct Table(pg_sys::Relation);

/// The partition for keys below `end`.
#[derive(Clone, Copy)]
pub struct Leaf {
    pub table: Oid,
    pub end: i64,
}

impl Table {
    /// Opens a table of the extension for inserts; `None` if it is no member.
    pub fn open(name: &CStr) -> Option<Table> {
        Table::open_with(name, pg_sys::RowExclusiveLock as i32)
    }

    /// Opens a table of the extension to read it.
    pub fn open_to_read(name: &CStr) -> Option<Table> {
        Table::open_with(name, pg_sys::AccessShareLock as i32)
    }

    /// If an update of the extension replaces the table while this waits for the lock, it opens the new one.
    fn open_with(name: &CStr, lock: i32) -> Option<Table> {
        loop {
            let (found, _) = member::relation(name)?;
            // SAFETY: null if it has been dropped; an error unwinds, and the end of the (sub)transaction closes it. The lock
            // has told this process of all earlier changes.
            unsafe {
                let table = pg_sys::try_table_open(found, lock);
                if member::relation(name).is_some_and(|(now, _)| now == found) && !table.is_null() {
                    return Some(Table(table));
                }
                if !table.is_null() {
                    pg_sys::table_close(table, lock);
                }
            }
        }
    }

    /// Returns the table and its owner.
    pub fn table(&self) -> (Oid, Oid) {
        // SAFETY: the table is open.
        unsafe { ((*self.0).rd_id, (*(*self.0).rd_rel).relowner) }
    }

    /// Returns the partition of a key; `None` if there is none. Returns the table itself if it is not partitioned
    /// (extension version 0.1.0).
    pub fn leaf(&self, key: i64) -> Option<Leaf> {
        self.leaves(key, key).pop()
    }

    /// Returns the partitions with keys in a range, the key `up_to` included, in the order of keys.
    pub fn leaves(&self, from: i64, up_to: i64) -> Vec<Leaf> {
        // SAFETY: the table is open. The description of its partitions lives while it is, and has one column, a
        // bigint: only the extension's owner could change that.
        unsafe {
            if (*(*self.0).rd_rel).relkind as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
                return vec![Leaf { table: (*self.0).rd_id, end: i64::MAX }];
            }
            let partitions = &*pg_sys::RelationGetPartitionDesc(self.0, true);
            let Some(bounds) = partitions.boundinfo.as_ref() else { return Vec::new() };
            let count = bounds.ndatums as usize;
            let end = |n: usize| if n < count { bound(bounds, n) } else { i64::MAX };
            let first = (0..count).position(|n| from < bound(bounds, n)).unwrap_or(count);
            let last = (first..count).position(|n| up_to < bound(bounds, n)).map_or(count, |more| first + more);
            // indexes[n] is the partition between bound n - 1 and bound n.
            let leaf = |n: usize| {
                let index = *bounds.indexes.add(n);
                (index >= 0).then(|| Leaf { table: *partitions.oids.add(index as usize), end: end(n) })
            };
            (first..=last).filter_map(leaf).collect()
        }
    }

    /// Closes the table; its lock stays.
    pub fn close(self) {
        // SAFETY: it is open.
        unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as i32) }
    }
}

/// Returns bound `n`.
///
/// # Safety
/// The bounds must be of ranges of one bigint, and more than `n`.
unsafe fn bound(bounds: &pg_sys::PartitionBoundInfoData, n: usize) -> i64 {
    // SAFETY: the caller's promise.
    unsafe {
        match **bounds.kind.add(n) {
            PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MINVALUE => i64::MIN,
            PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MAXVALUE => i64::MAX,
            _ => datum(**bounds.datums.add(n)),
        }
    }
}

fn datum(datum: Datum) -> i64 {
    datum.value() as i64
}
