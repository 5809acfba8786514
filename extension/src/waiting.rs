//! Waiting for events, before `read_events()` and `follow_events()` read.

use crate::ffi::latch;
use crate::ffi::shared::{self, READERS, Signals};
use crate::{memory, signals};
use pgrx::pg_extern;
use pgrx::pg_sys::Latch;
use std::cell::RefCell;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, Instant};

/// How often a session looks if no commit wakes it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

thread_local! {
    /// The consumer for which this session's last read found nothing, and the number of commits before the read.
    static FOUND_NOTHING: RefCell<Option<(String, u64)>> = const { RefCell::new(None) };
}

/// Counts the transactions with events that have committed in this database since the server started; 0 if the
/// library is not preloaded.
#[pg_extern(sql = false)]
fn commits() -> i64 {
    signals::own().map_or(0, |signals| signals.commits.load(Ordering::Acquire)).cast_signed()
}

/// Whether commits are counted and wake waiting sessions.
#[pg_extern(sql = false)]
fn is_preloaded() -> bool {
    signals::is_preloaded()
}

/// Stores that a read which began at this number of commits found nothing.
#[pg_extern(sql = false)]
fn note_found_nothing(consumer: Option<&str>, commits: Option<i64>) {
    let read = consumer.zip(commits);
    FOUND_NOTHING.set(read.map(|(consumer, commits)| (memory::copy(consumer), commits.cast_unsigned())));
}

/// Waits for a commit or a notification, unless the session's last read of this consumer found events.
#[pg_extern(sql = false)]
fn wait_for_events(consumer: &str, seconds: f64) {
    let seen = FOUND_NOTHING.with_borrow(|last| last.as_ref().filter(|last| last.0 == consumer).map(|last| last.1));
    let Some(seen) = seen else { return };
    let deadline = Instant::now() + Duration::try_from_secs_f64(seconds.min(86_400.0)).unwrap_or_default();
    let signals = signals::own();
    let slot = signals.map(Slot::acquire);
    let must_poll = slot.as_ref().is_some_and(|slot| !slot.is_acquired());
    loop {
        let has_committed = signals.is_some_and(|signals| signals.commits.load(Ordering::Acquire) != seen);
        let left = deadline.saturating_duration_since(Instant::now());
        if has_committed || latch::is_notified() || left.is_zero() {
            return;
        }
        latch::wait(if must_poll { left.min(POLL_INTERVAL) } else { left });
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
