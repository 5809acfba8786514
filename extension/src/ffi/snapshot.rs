//! Snapshots: which transactions have ended.

use super::{cluster, transaction};
use pgrx::pg_sys::{self, Datum};
use std::ffi::CString;

/// The transactions before `xmax` have ended, except those in progress. A value of the type pg_snapshot.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub xmax: u64,
    /// In ascending order.
    pub in_progress: Vec<u64>,
}

impl Snapshot {
    /// Takes a snapshot. The current transaction is in progress in it.
    pub fn latest() -> Snapshot {
        // SAFETY: PostgreSQL's own snapshot, which has as many transactions as it says; not on a standby.
        let (xmax, ids) = unsafe {
            let snapshot = &*pg_sys::GetLatestSnapshot();
            let ids =
                if snapshot.xcnt == 0 { &[] } else { std::slice::from_raw_parts(snapshot.xip, snapshot.xcnt as usize) };
            (number(snapshot.xmax), ids)
        };
        let next = cluster::next_transaction_id();
        let xmax = full(xmax, next);
        let mut in_progress: Vec<u64> = ids.iter().map(|id| full(number(*id), next)).collect();
        in_progress.extend(transaction::assigned_id().filter(|own| *own < xmax));
        in_progress.sort_unstable();
        in_progress.dedup();
        Snapshot { xmax, in_progress }
    }

    /// The oldest transaction that had not ended.
    pub fn xmin(&self) -> u64 {
        self.in_progress.first().copied().unwrap_or(self.xmax)
    }

    /// Whether a transaction had not ended.
    pub fn has_in_progress(&self, transaction_id: u64) -> bool {
        transaction_id >= self.xmax || self.in_progress.binary_search(&transaction_id).is_ok()
    }

    /// Returns it as a pg_snapshot, in the current memory context.
    pub fn datum(&self) -> Datum {
        let ids: Vec<String> = self.in_progress.iter().map(u64::to_string).collect();
        let text = CString::new(format!("{}:{}:{}", self.xmin(), self.xmax, ids.join(","))).unwrap_or_default();
        // SAFETY: parses the NUL-terminated text.
        let datum =
            unsafe { pgrx::direct_function_call_as_datum(pg_sys::pg_snapshot_in, &[Some(Datum::from(text.as_ptr()))]) };
        datum.unwrap_or(Datum::null())
    }
}

/// Runs `work` with a snapshot of now, if the transaction's isolation level allows.
pub fn with_latest<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: called within a transaction. After an error its end releases the snapshot.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Runs `work`, which runs no query, with a snapshot of now at any isolation level. The snapshot of the transaction stays.
pub fn with_newest<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: as above.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

fn number(id: pg_sys::TransactionId) -> u32 {
    id.into_inner()
}

/// Adds the epoch to an ID that is not after `next`.
fn full(id: u32, next: u64) -> u64 {
    let epoch = next >> 32;
    let is_of_last_epoch = u64::from(id) > next & u64::from(u32::MAX);
    (epoch.saturating_sub(is_of_last_epoch.into()) << 32) | u64::from(id)
}
