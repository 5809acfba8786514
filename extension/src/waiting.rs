//! Waiting for events. A reader asks the database whether it has events, then waits here for a commit, and asks again.

mod procedures;
mod released;
mod tasks;

use crate::ffi::shared::{self, READERS, Signals};
use crate::ffi::{latch, transaction};
use crate::signals;
use pgrx::pg_extern;
use pgrx::pg_sys::Latch;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, Instant};

/// How often a session without a slot looks at the number of commits.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a session waits at most before it asks again. Some news wake no session, such as a consumer's row that is
/// changed by hand.
const LONGEST: Duration = Duration::from_secs(1);
/// The same if the database counts no commits: without preloading, or without an entry in shared memory.
const LONGEST_UNCOUNTED: Duration = Duration::from_millis(100);

/// Counts the transactions with events that have committed in this database since the server started; 0 if the
/// database counts none.
#[pg_extern(sql = false)]
fn commits() -> i64 {
    counted(signals::own()).cast_signed()
}

fn counted(signals: Option<&Signals>) -> u64 {
    signals.map_or(0, |signals| signals.commits.load(Ordering::Acquire))
}

/// Whether commits are counted and wake waiting sessions.
#[pg_extern(sql = false)]
fn is_preloaded() -> bool {
    signals::is_preloaded()
}

/// Has the commit of this transaction wake the waiting sessions, which then ask again.
#[pg_extern(sql = false)]
fn wake_readers() {
    signals::entry().into_iter().for_each(transaction::mark);
}

/// Waits until the number of commits is no longer `seen`, at most `seconds`. Returns how many seconds are left to wait.
#[pg_extern(sql = false)]
fn wait_for_commit(seen: i64, seconds: f64) -> f64 {
    let too_large = if seconds > 0.0 { Duration::MAX } else { Duration::ZERO };
    let limit = Duration::try_from_secs_f64(seconds).unwrap_or(too_large);
    let (signals, seen) = (signals::own(), seen.cast_unsigned());
    let left = wait(signals, seen, limit);
    // A fixed snapshot shows no new event: the caller must end its transaction.
    let is_vain = transaction::has_fixed_snapshot() && counted(signals) != seen;
    if is_vain { 0.0 } else { left.as_secs_f64() }
}

/// Waits until the number of commits is no longer `seen`, or until it is time to ask again. Returns how much of the
/// limit is left.
fn wait(signals: Option<&'static Signals>, seen: u64, limit: Duration) -> Duration {
    let began = Instant::now();
    match signals {
        Some(signals) => wait_for_signal(signals, seen, limit.min(LONGEST)),
        // A notification wakes the session too.
        None => latch::wait(limit.min(LONGEST_UNCOUNTED)),
    }
    pgrx::check_for_interrupts!();
    limit.saturating_sub(began.elapsed())
}

fn wait_for_signal(signals: &'static Signals, seen: u64, limit: Duration) {
    let deadline = Instant::now() + limit;
    let slot = Slot::acquire(signals);
    let pause = if slot.is_acquired() { LONGEST } else { POLL_INTERVAL };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || counted(Some(signals)) != seen {
            return;
        }
        latch::wait(left.min(pause));
        pgrx::check_for_interrupts!();
    }
}

/// One of the slots for sessions that commits wake, until it is dropped.
struct Slot(Option<&'static AtomicPtr<Latch>>);

impl Slot {
    /// Acquires a free slot. If none is free, commits do not wake the session, and it must poll.
    fn acquire(signals: &'static Signals) -> Slot {
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| latch::at_exit(release_slots));
        let own = latch::mine();
        let acquire = |slot: &&AtomicPtr<Latch>| {
            slot.compare_exchange(null_mut(), own, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        Slot(signals.readers.iter().find(acquire))
    }

    fn is_acquired(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            slot.store(null_mut(), Ordering::Release);
        }
    }
}

/// Releases the slots of a backend that ends while it waits.
fn release_slots(own: *mut Latch) {
    for slot in shared::signals().into_iter().flatten().flat_map(|signals| &signals.readers[..READERS]) {
        let _ = slot.compare_exchange(own, null_mut(), Ordering::AcqRel, Ordering::Relaxed);
    }
}
