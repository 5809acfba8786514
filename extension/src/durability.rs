//! Waiting for the disk: the feed delivers only events that a crash cannot undo.

use crate::ffi::shared::Signals;
use crate::ffi::wal;
use crate::signals;
use pgrx::pg_extern;
use std::sync::atomic::Ordering;

/// Whether every visible event is known to be on disk, and commits wait for no standby. This is so if every
/// transaction with events waited for the disk before it became visible.
#[pg_extern(sql = false)]
fn is_durable() -> bool {
    let all_ended_before_a_wait = |signals: &Signals| {
        signals.unflushed_begun.load(Ordering::Acquire) == signals.unflushed_durable.load(Ordering::Acquire)
    };
    !wal::has_synchronous_standbys() && signals::own().is_some_and(all_ended_before_a_wait)
}

/// Waits until every visible event is on disk and, if synchronous_commit requires it, on the synchronous standbys.
#[pg_extern(sql = false)]
fn wait_until_durable() {
    let ended = signals::own().map(|signals| (signals, signals.unflushed_ended.load(Ordering::Acquire)));
    wal::wait_until_durable();
    if let Some((signals, ended)) = ended {
        signals.unflushed_durable.fetch_max(ended, Ordering::AcqRel);
    }
}
