//! The lanes of the table `ready`: its rows by queue, priority and time, read by its index.

use super::heap::Heap;
use super::indexes::{key, open_btree};
use super::raw;
use super::trigger::Row;
use pgrx::pg_sys::submodules::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{
    self, Datum, IndexScanDesc, ItemPointerData, Oid, Relation, ScanKeyData, SnapshotData, SnapshotType, TupleTableSlot,
};
use std::ptr::null_mut;

/// Where a scan begins: the columns of the table, and the values.
pub struct Begin {
    /// Of the queue, the priority and the time.
    pub columns: [usize; 3],
    pub queue_id: i32,
    pub priority: i16,
    /// `None`: at the beginning of this priority, through all later ones; else only this one.
    pub ready_at: Option<i64>,
}

/// Which rows a scan shows.
#[derive(Clone, Copy, PartialEq)]
pub enum Sight {
    /// Those that the active snapshot shows, which must stay active.
    Snapshot,
    /// Those that have been committed, and that no transaction in progress deletes.
    Settled,
}

/// The rows of a queue from a priority on.
pub struct Lanes {
    index: Relation,
    scan: IndexScanDesc,
    slot: *mut TupleTableSlot,
    /// Also shows what transactions in progress write, and tells which they are. In a place of its own, which the scan knows.
    dirty: Option<Box<SnapshotData>>,
}

impl Lanes {
    /// Begins a scan; `None` if the table has no index of its lanes.
    pub fn begin(heap: &Heap, from: &Begin, sight: Sight) -> Option<Lanes> {
        let mut dirty = (sight == Sight::Settled)
            .then(|| Box::new(SnapshotData { snapshot_type: SnapshotType::SNAPSHOT_DIRTY, ..SnapshotData::default() }));
        let snapshot = dirty.as_mut().map_or(null_mut(), |snapshot| std::ptr::from_mut(snapshot.as_mut()));
        // SAFETY: the table is open as long as its lanes. The closure holds no destructor.
        let (index, scan, slot) = unsafe {
            pg_guard_ffi_boundary(|| {
                let table = std::ptr::from_ref(heap.relation()).cast_mut();
                let index = open_btree(table, |of| {
                    of.indnkeyatts == 3 && from.columns.iter().enumerate().all(|(n, column)| key(of, n) == *column)
                });
                if index.is_null() {
                    return (index, null_mut(), null_mut());
                }
                let snapshot = if snapshot.is_null() { raw::GetActiveSnapshot() } else { snapshot };
                let scan = raw::begin_scan(table, index, snapshot, 3);
                rescan(scan, from);
                (index, scan, raw::table_slot_create(table, null_mut()))
            })
        };
        (!index.is_null()).then_some(Lanes { index, scan, slot, dirty })
    }

    /// Begins again, from another priority on.
    pub fn restart(&mut self, from: &Begin) {
        // SAFETY: the scan is open. The closure holds no destructor.
        unsafe { pg_guard_ffi_boundary(|| rescan(self.scan, from)) };
    }

    /// Steps to the next row. Returns it with its place; `None` at the end.
    pub fn next(&mut self) -> Option<(Row, ItemPointerData)> {
        loop {
            // SAFETY: as above.
            let is_found = unsafe {
                pg_guard_ffi_boundary(|| {
                    raw::index_getnext_slot(self.scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot)
                })
            };
            let none = pg_sys::InvalidTransactionId;
            let is_settled = self.dirty.as_ref().is_none_or(|dirty| dirty.xmin == none && dirty.xmax == none);
            if !is_found || is_settled {
                // SAFETY: the slot has the row.
                return is_found.then(|| (Row::of(self.slot), unsafe { (*self.slot).tts_tid }));
            }
        }
    }

    /// Whether a transaction in progress deletes the row of the last step.
    pub fn is_being_deleted(&self) -> bool {
        // SAFETY: the slot has a stored row. The closure holds no destructor.
        unsafe {
            pg_guard_ffi_boundary(|| {
                let Some(system_column) = (*(*self.slot).tts_ops).getsysattr else { return false };
                let mut is_null = false;
                let xmax = system_column(self.slot, pg_sys::MaxTransactionIdAttributeNumber, &raw mut is_null);
                let xmax = pg_sys::TransactionId::from(xmax.value() as u32);
                xmax != pg_sys::InvalidTransactionId && raw::TransactionIdIsInProgress(xmax)
            })
        }
    }

    /// Ends the scan. After an error the end of the (sub)transaction does.
    pub fn close(self) {
        // SAFETY: all are open. The closure holds no destructor.
        unsafe {
            pg_guard_ffi_boundary(|| {
                raw::index_endscan(self.scan);
                raw::ExecDropSingleTupleTableSlot(self.slot);
                raw::index_close(self.index, pg_sys::NoLock as i32);
            });
        }
    }
}

/// # Safety
/// The scan must be of an index of lanes. Called within a boundary.
unsafe fn rescan(scan: IndexScanDesc, from: &Begin) {
    let mut keys = [ScanKeyData::default(); 3];
    let keys = keys.as_mut_ptr();
    let [equal, at_least] = [pg_sys::BTEqualStrategyNumber, pg_sys::BTGreaterEqualStrategyNumber].map(|n| n as u16);
    let (of_priority, priority_is) = match from.ready_at {
        None => (at_least, pg_sys::F_INT2GE),
        Some(_) => (equal, pg_sys::F_INT2EQ),
    };
    let (queue, priority) = (Datum::from(from.queue_id), Datum::from(from.priority));
    let time = Datum::from(from.ready_at.unwrap_or(i64::MIN));
    // SAFETY: the caller's promise: an integer, a smallint, and a time. The scan copies the keys.
    unsafe {
        raw::ScanKeyInit(keys, 1, equal, Oid::from(pg_sys::F_INT4EQ), queue);
        raw::ScanKeyInit(keys.add(1), 2, of_priority, Oid::from(priority_is), priority);
        raw::ScanKeyInit(keys.add(2), 3, at_least, Oid::from(pg_sys::F_TIMESTAMPTZ_GE), time);
        raw::index_rescan(scan, keys, 3, null_mut(), 0);
    }
}
