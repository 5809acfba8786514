//! The write-ahead log.

use super::cluster;
use pgrx::pg_sys;

/// Whether commits wait for synchronous standbys.
pub fn has_synchronous_standbys() -> bool {
    // SAFETY: a setting of this process: null or NUL-terminated.
    unsafe { !pg_sys::SyncRepStandbyNames.is_null() && *pg_sys::SyncRepStandbyNames != 0 }
}

/// Waits until the whole log is on disk and, if synchronous_commit requires it, on the synchronous standbys.
pub fn wait_until_durable() {
    let end = inserted_end();
    // SAFETY: the log up to there is inserted, or is being inserted. As at a commit, interrupts are held while waiting
    // for the standbys: the wait handles them itself.
    unsafe {
        pg_sys::XLogFlush(end);
        pgrx::check_for_interrupts!();
        pg_sys::InterruptHoldoffCount += 1;
        pg_sys::SyncRepWaitForLSN(end, false);
        pg_sys::InterruptHoldoffCount -= 1;
        // A commit cannot be undone, so a cancellation ends its wait with a warning, and is forgotten. A read can fail.
        let is_interrupted = (&raw const pg_sys::InterruptPending).read_volatile() != 0;
        if is_interrupted && has_synchronous_standbys() && standbys_flushed_end() < end {
            pg_sys::QueryCancelPending = 1;
        }
    }
    // The end of the session is an interrupt, too.
    pgrx::check_for_interrupts!();
}

/// Returns the end of the log that the synchronous standbys have on disk.
fn standbys_flushed_end() -> u64 {
    // SAFETY: shared memory that lives as long as the server; the number is written at once.
    unsafe { (&raw const (*pg_sys::WalSndCtl).lsn[pg_sys::SYNC_REP_WAIT_FLUSH as usize]).read_volatile() }
}

/// Returns the end of the last record of the log. Not for standbys.
pub fn inserted_end() -> u64 {
    const PAGE: u64 = pg_sys::XLOG_BLCKSZ as u64;
    // SAFETY: reads shared memory, and a constant of the cluster.
    let (next, segment) = unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size.unsigned_abs()) };
    // PostgreSQL returns the start of the next record. On a new page that is after the page's header, which does not
    // exist yet and cannot be flushed. The first header of a segment is the long one.
    let header = if next % u64::from(segment) < PAGE { 40 } else { 24 };
    if next % PAGE == header { next - header } else { next }
}

/// Returns where an earlier timeline ended in the history of the current one; `None` if it is not in it.
pub fn timeline_end(timeline: u32) -> Option<u64> {
    let current = cluster::timeline();
    // SAFETY: PostgreSQL reads the file with the history, and lists its entries in memory of the current context. Without
    // a file the timeline has no earlier one.
    unsafe {
        let history = pg_sys::readTimeLineHistory(current);
        let is_earlier = timeline != current && pg_sys::tliInHistory(timeline, history);
        is_earlier.then(|| pg_sys::tliSwitchPoint(timeline, history, std::ptr::null_mut()))
    }
}
