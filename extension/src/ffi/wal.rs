//! The write-ahead log.

use pgrx::pg_sys;

/// Whether commits are to wait for other servers.
pub fn has_synchronous_standbys() -> bool {
    // SAFETY: a setting of this process: null or NUL-terminated.
    unsafe { !pg_sys::SyncRepStandbyNames.is_null() && *pg_sys::SyncRepStandbyNames != 0 }
}

/// Waits until the log is on disk up to this transaction's last record, and with the synchronous standbys, as a commit
/// at this moment would.
pub fn wait_until_durable() {
    // SAFETY: the record has been inserted, or there is none and the position is 0. As at a commit, interrupts are held
    // while waiting for the standbys: the wait deals with them by itself.
    unsafe {
        let end = pg_sys::XactLastRecEnd;
        pg_sys::XLogFlush(end);
        pg_sys::InterruptHoldoffCount += 1;
        pg_sys::SyncRepWaitForLSN(end, false);
        pg_sys::InterruptHoldoffCount -= 1;
    }
    // Being ended is one of them.
    pgrx::check_for_interrupts!();
}
