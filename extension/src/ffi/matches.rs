//! Rows of a heap table whose uuid column is in a range, found by an index that begins with this column.

use super::heap::Heap;
use super::indexes::{key, open_btree};
use super::raw;
use super::trigger::Row;
use super::uuid::Uuid;
use pgrx::pg_sys::submodules::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, IndexScanDesc, ItemPointerData, Oid, Relation, ScanKeyData, TupleTableSlot};
use std::ptr::null_mut;

/// A scan by the active snapshot, which shows all that the transaction has written before the scan.
pub struct Matches {
    index: Relation,
    scan: IndexScanDesc,
    slot: *mut TupleTableSlot,
    has_own_snapshot: bool,
    /// The first and the last value, in a place of their own, which the scan knows.
    range: Box<[Uuid; 2]>,
}

impl Matches {
    /// Opens the index; `None` if there is none. Begin the scan with `find`.
    pub fn open(heap: &Heap, column: usize) -> Option<Matches> {
        // SAFETY: the table is open as long as its matches; a snapshot is active. The closure holds no destructor.
        let (index, scan, slot, has_own_snapshot) = unsafe {
            pg_guard_ffi_boundary(|| {
                let table = std::ptr::from_ref(heap.relation()).cast_mut();
                let index = open_btree(table, |of| key(of, 0) == column);
                if index.is_null() {
                    return (index, null_mut(), null_mut(), false);
                }
                let is_older = (*raw::GetActiveSnapshot()).curcid != raw::GetCurrentCommandId(false);
                if is_older {
                    raw::PushCopiedSnapshot(raw::GetActiveSnapshot());
                    raw::UpdateActiveSnapshotCommandId();
                }
                let scan = raw::begin_scan(table, index, raw::GetActiveSnapshot(), 2);
                (index, scan, raw::table_slot_create(table, null_mut()), is_older)
            })
        };
        let range = Box::new([Uuid([0; 16]); 2]);
        (!index.is_null()).then_some(Matches { index, scan, slot, has_own_snapshot, range })
    }

    /// Begins to find the rows from one value to another.
    pub fn find(&mut self, from: Uuid, to: Uuid) {
        *self.range = [from, to];
        let [from, to] = self.range.each_ref().map(Uuid::as_datum);
        let mut keys = [ScanKeyData::default(); 2];
        let (scan, keys) = (self.scan, keys.as_mut_ptr());
        let [least, most] = [pg_sys::BTGreaterEqualStrategyNumber, pg_sys::BTLessEqualStrategyNumber].map(|n| n as u16);
        // SAFETY: the scan is open, and of a uuid. It copies the keys, and the values live as long as it. The closure holds
        // no destructor.
        unsafe {
            pg_guard_ffi_boundary(|| {
                raw::ScanKeyInit(keys, 1, least, Oid::from(pg_sys::F_UUID_GE), from);
                raw::ScanKeyInit(keys.add(1), 1, most, Oid::from(pg_sys::F_UUID_LE), to);
                raw::index_rescan(scan, keys, 2, null_mut(), 0);
            });
        }
    }

    /// Steps to the next row. Returns it with its place; `None` at the end.
    pub fn next(&mut self) -> Option<(Row, ItemPointerData)> {
        let (scan, slot) = (self.scan, self.slot);
        // SAFETY: the scan is open, and has begun. The closure holds no destructor.
        let is_found = unsafe {
            pg_guard_ffi_boundary(|| raw::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot))
        };
        // SAFETY: the slot has the row.
        is_found.then(|| (Row::of(slot), unsafe { (*slot).tts_tid }))
    }

    /// Ends the scan. After an error the end of the (sub)transaction does.
    pub fn close(self) {
        let Matches { index, scan, slot, has_own_snapshot, .. } = self;
        // SAFETY: all are open; the snapshot is still the active one. The closure holds no destructor.
        unsafe {
            pg_guard_ffi_boundary(|| {
                raw::index_endscan(scan);
                raw::ExecDropSingleTupleTableSlot(slot);
                raw::index_close(index, pg_sys::NoLock as i32);
                if has_own_snapshot {
                    raw::PopActiveSnapshot();
                }
            });
        }
    }
}
