//! The functions with which the catalogs of 0.1.0 and 0.2.0 wait.

use crate::memory;
use pgrx::pg_extern;
use std::cell::RefCell;

thread_local! {
    /// The consumer for which this session's last read found nothing, and the number of commits before the read.
    static FOUND_NOTHING: RefCell<Option<(String, i64)>> = const { RefCell::new(None) };
}

/// Stores that a read which began at this number of commits found nothing.
#[pg_extern(sql = false)]
fn note_found_nothing(consumer: Option<&str>, commits: Option<i64>) {
    let read = consumer.zip(commits);
    FOUND_NOTHING.set(read.map(|(consumer, commits)| (memory::copy(consumer), commits)));
}

/// Waits for a commit, unless the session's last read of this consumer found events.
#[pg_extern(sql = false)]
fn wait_for_events(consumer: &str, seconds: f64) {
    let seen = FOUND_NOTHING.with_borrow(|last| last.as_ref().filter(|last| last.0 == consumer).map(|last| last.1));
    if let Some(seen) = seen {
        super::wait_for_commit(seen, seconds);
    }
}
