//! Waiting: for events, before `read_events()` reads, and for the disk, before it returns them.

use crate::ffi::shared::{self, Signals};
use crate::ffi::{latch, wal};
use crate::signals::{self, Woken};
use pgrx::pg_extern;
use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often to look where no commit wakes this session.
const UNCERTAIN: Duration = Duration::from_millis(20);

thread_local! {
    /// The consumer for which this session's last read found nothing, and the count of commits before it.
    static FOUND_NOTHING: RefCell<Option<(String, u64)>> = const { RefCell::new(None) };
}

fn own_signals() -> Option<&'static Signals> {
    signals::entry().and_then(|entry| Some(&shared::signals()?[entry]))
}

/// Transactions with events that have committed in this database since the server started; 0 where nobody counts.
#[pg_extern(sql = false)]
fn commits() -> i64 {
    own_signals().map_or(0, |signals| signals.commits.load(Ordering::Acquire)).cast_signed()
}

/// Whether commits are counted and wake those who wait.
#[pg_extern(sql = false)]
fn is_preloaded() -> bool {
    signals::is_possible()
}

/// Notes that a read which began at this count of commits found nothing.
#[pg_extern(sql = false)]
fn note_found_nothing(consumer: Option<&str>, commits: i64) {
    FOUND_NOTHING.set(consumer.map(|consumer| (consumer.to_owned(), commits.cast_unsigned())));
}

/// Waits for a commit or a notification, unless the session's last read of this consumer may have left something.
#[pg_extern(sql = false)]
fn wait_for_events(consumer: &str, seconds: f64) {
    let seen = FOUND_NOTHING.with_borrow(|last| last.as_ref().filter(|last| last.0 == consumer).map(|last| last.1));
    let Some(seen) = seen else { return };
    let deadline = Instant::now() + Duration::try_from_secs_f64(seconds.min(86_400.0)).unwrap_or_default();
    let signals = own_signals();
    let woken = signals.map(Woken::by);
    let must_look = woken.as_ref().is_some_and(|woken| !woken.is_certain());
    loop {
        let news = signals.is_some_and(|signals| signals.commits.load(Ordering::Acquire) != seen);
        let left = deadline.saturating_duration_since(Instant::now());
        if news || latch::is_notified() || left.is_zero() {
            return;
        }
        latch::wait(if must_look { left.min(UNCERTAIN) } else { left });
        pgrx::check_for_interrupts!();
    }
}

/// Whether every event that is visible is known to be on disk, and there is no standby to wait for: so it is where every
/// transaction with events has waited for the disk before it became visible.
#[pg_extern(sql = false)]
fn is_durable() -> bool {
    let all_ended_before_a_wait = |signals: &Signals| {
        signals.unflushed_begun.load(Ordering::Acquire) == signals.unflushed_durable.load(Ordering::Acquire)
    };
    !wal::has_synchronous_standbys() && own_signals().is_some_and(all_ended_before_a_wait)
}

#[pg_extern(sql = false)]
fn wait_until_durable() {
    let ended = own_signals().map(|signals| (signals, signals.unflushed_ended.load(Ordering::Acquire)));
    wal::wait_until_durable();
    if let Some((signals, ended)) = ended {
        signals.unflushed_durable.fetch_max(ended, Ordering::AcqRel);
    }
}
