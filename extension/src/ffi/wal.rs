//! The write-ahead log.

use pgrx::pg_sys;

/// Whether commits are to wait for other servers.
pub fn has_synchronous_standbys() -> bool {
    // SAFETY: a setting of this process: null or NUL-terminated.
    unsafe { !pg_sys::SyncRepStandbyNames.is_null() && *pg_sys::SyncRepStandbyNames != 0 }
}

/// Waits until all of the log that has been inserted is on disk and, as synchronous_commit says, with the synchronous
/// standbys.
pub fn wait_until_durable() {
    let end = inserted_end();
    // SAFETY: all up to there has been inserted, or is being inserted. As at a commit, interrupts are held while waiting
    // for the standbys: the wait deals with them by itself.
    unsafe {
        pg_sys::XLogFlush(end);
        pg_sys::InterruptHoldoffCount += 1;
        pg_sys::SyncRepWaitForLSN(end, false);
        pg_sys::InterruptHoldoffCount -= 1;
    }
    // Being ended is one of them.
    pgrx::check_for_interrupts!();
}

/// Where the last record of the log ends.
fn inserted_end() -> u64 {
    const PAGE: u64 = pg_sys::XLOG_BLCKSZ as u64;
    // SAFETY: reads shared memory, and a constant of the cluster.
    let (next, segment) = unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size.unsigned_abs()) };
    // PostgreSQL tells where the next one begins. On a new page that is behind the page's header, which is not there yet
    // and cannot be flushed. The first header of a segment is the long one.
    let header = if next % u64::from(segment) < PAGE { 40 } else { 24 };
    if next % PAGE == header { next - header } else { next }
}
