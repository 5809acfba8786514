//! A commit's signal: the backend counts it in shared memory and wakes the notifier and the sessions that wait.

use crate::ffi::shared::{self, Progress, Signals};
use crate::ffi::transaction::End;
use crate::ffi::{catalog, latch, session};
use pgrx::pg_sys::Oid;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether the library is preloaded, and so commits are counted.
pub fn is_preloaded() -> bool {
    shared::signals().is_some()
}

/// Returns the signals of this database; `None` if it has no entry in shared memory.
pub fn own() -> Option<&'static Signals> {
    entry().and_then(|entry| Some(&shared::signals()?[entry]))
}

/// Returns this database's entry in shared memory, and claims one if it has none; `None` if all are taken or the library
/// is not preloaded.
pub fn entry() -> Option<usize> {
    find().or_else(|| claim(session::database().to_u32()))
}

/// Returns this database's entry in shared memory, if it has one.
pub fn find() -> Option<usize> {
    static KNOWN: AtomicUsize = AtomicUsize::new(0);
    let all = shared::signals()?;
    let own = session::database().to_u32();
    // With listen(): a session that listens now is seen here, or sees the entry.
    let is_own = |entry: &usize| all[*entry].database.load(Ordering::SeqCst) == own;
    let known = KNOWN.load(Ordering::Relaxed);
    if is_own(&known) {
        return Some(known);
    }
    let entry = (0..all.len()).find(is_own)?;
    KNOWN.store(entry, Ordering::Relaxed);
    Some(entry)
}

/// Stores that a session of this database listens, also if the database has no entry.
pub fn listen() {
    shared::listeners().into_iter().for_each(|listeners| listeners.add(session::database().to_u32()));
    if let Some(entry) = find() {
        shared::signals().into_iter().for_each(|all| all[entry].listened.store(true, Ordering::Release));
    }
}

/// Claims a free entry, or the entry of a database that has been dropped.
fn claim(own: u32) -> Option<usize> {
    let all = shared::signals()?;
    let database = |entry: usize| all[entry].database.load(Ordering::Acquire);
    let is_free =
        |entry: &usize| database(*entry) == 0 || catalog::database_name(Oid::from(database(*entry))).is_none();
    // Before the lock: this reads the catalog.
    let free = (0..all.len()).find(is_free)?;
    let found = database(free);
    let mut progress = shared::progress_mut();
    if let Some(entry) = (0..all.len()).find(|entry| database(*entry) == own) {
        return Some(entry);
    }
    if database(free) != found || progress[free].pid != 0 {
        // Another backend was faster. The next event claims an entry.
        return None;
    }
    progress[free] = Progress { commits: all[free].commits.load(Ordering::Acquire), ..Progress::default() };
    let Signals { listened, history, leave, .. } = &all[free];
    // The counts stay: readers compare whether they have changed.
    listened.store(false, Ordering::Relaxed);
    history.store(0, Ordering::Relaxed);
    leave.store(false, Ordering::Relaxed);
    all[free].database.store(own, Ordering::SeqCst);
    if shared::listeners().is_some_and(|listeners| listeners.contains(own)) {
        listened.store(true, Ordering::Release);
    }
    Some(free)
}

/// Counts the end of a marked transaction and wakes waiting sessions. Runs in its backend, where nothing may fail.
pub fn count(entry: usize, end: End) {
    let Some(signals) = shared::signals().and_then(|all| all.get(entry)) else { return };
    match end {
        End::CommitsUnflushed => drop(signals.unflushed_begun.fetch_add(1, Ordering::AcqRel)),
        End::UnflushedEnded => drop(signals.unflushed_ended.fetch_add(1, Ordering::AcqRel)),
        End::Committed => {
            signals.commits.fetch_add(1, Ordering::AcqRel);
            signals.readers.iter().for_each(|reader| latch::set(reader.load(Ordering::Acquire)));
            if signals.listened.load(Ordering::Acquire) {
                latch::set(signals.notifier.load(Ordering::Acquire));
            }
        }
    }
}

/// Counts the commit of a prepared transaction, which may have events: PREPARE has ended its mark.
pub fn count_prepared() {
    find().into_iter().for_each(|entry| count(entry, End::Committed));
}
