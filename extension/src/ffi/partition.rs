//! A table to insert into that may be partitioned by ranges of a bigint: which of its partitions takes a row.

use pgrx::pg_sys::{self, Datum, Oid, PartitionRangeDatumKind};
use std::ffi::CStr;

/// A table, locked for inserts until the transaction ends.
pub struct Table(pg_sys::Relation);

/// What takes the rows whose key is below `end`.
#[derive(Clone, Copy)]
pub struct Leaf {
    pub table: Oid,
    pub end: i64,
}

impl Table {
    /// Opens a table of a schema. Whoever waits for its lock while an update of the extension replaces it gets the new
    /// one.
    pub fn open(schema: &CStr, name: &CStr) -> Table {
        // SAFETY: the names are NUL-terminated and outlive the call; an error leaves by unwinding.
        unsafe {
            let name = pg_sys::makeRangeVar(schema.as_ptr().cast_mut(), name.as_ptr().cast_mut(), -1);
            let lock = pg_sys::RowExclusiveLock as i32;
            let oid = pg_sys::RangeVarGetRelidExtended(name, lock, 0, None, std::ptr::null_mut());
            Table(pg_sys::table_open(oid, pg_sys::NoLock as i32))
        }
    }

    /// The table, and the role that owns it.
    pub fn table(&self) -> (Oid, Oid) {
        // SAFETY: the table is open.
        unsafe { ((*self.0).rd_id, (*(*self.0).rd_rel).relowner) }
    }

    /// The partition that takes a row with this key; the table itself where it is not partitioned (version 0.1.0 of the
    /// extension). None where no partition does.
    pub fn leaf(&self, key: i64) -> Option<Leaf> {
        // SAFETY: the table is open. What describes its partitions lives while it is, and is of one column, a bigint:
        // nobody but the extension's owner could change that.
        unsafe {
            if (*(*self.0).rd_rel).relkind as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
                return Some(Leaf { table: (*self.0).rd_id, end: i64::MAX });
            }
            let partitions = &*pg_sys::RelationGetPartitionDesc(self.0, true);
            if partitions.nparts == 0 {
                return None;
            }
            let bounds = &*partitions.boundinfo;
            let count = bounds.ndatums as usize;
            // indexes[n] is the partition between bound n - 1 and bound n.
            let place = (0..count).position(|n| key < bound(bounds, n)).unwrap_or(count);
            let index = *bounds.indexes.add(place);
            let end = if place < count { bound(bounds, place) } else { i64::MAX };
            (index >= 0).then(|| Leaf { table: *partitions.oids.add(index as usize), end })
        }
    }

    /// Closes it; its lock stays.
    pub fn close(self) {
        // SAFETY: it was opened above.
        unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as i32) }
    }
}

/// # Safety
/// They must be the bounds of ranges of one bigint, more than `n` of them.
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
