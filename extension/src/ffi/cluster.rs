//! The cluster: its identity, its timeline and its role.

use pgrx::pg_sys;

/// Returns the cluster's identifier.
pub fn system_identifier() -> u64 {
    // SAFETY: reads shared memory that is set before any backend starts.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Returns the timeline of new writes. A promotion and a point-in-time recovery begin another timeline. Not for
/// standbys.
pub fn timeline() -> u32 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetWALInsertionTimeLine() }
}

/// Returns the first transaction ID that is not assigned yet.
pub fn next_transaction_id() -> u64 {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
}

/// Whether this server follows another one, and so accepts no writes.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}
