//! A commit's signal: the backend counts it in shared memory and wakes the notifier and the sessions that wait.

use crate::ffi::shared::{self, Progress, Signals};
use crate::ffi::transaction::{self, End};
use crate::ffi::{area, catalog, latch, session};
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
    // A session that begins to listen now is seen by the caller, or sees the entry.
    let is_own = |entry: &usize| all[*entry].database.load(Ordering::SeqCst) == own;
    let known = KNOWN.load(Ordering::Relaxed);
    if is_own(&known) {
        return Some(known);
    }
    let entry = (0..all.len()).find(is_own)?;
    KNOWN.store(entry, Ordering::Relaxed);
    Some(entry)
}

/// Whether a session of the entry's database listens. Never false if one does.
pub fn is_listened(signals: &Signals) -> bool {
    let database = signals.database.load(Ordering::Acquire);
    shared::listeners().is_some_and(|listeners| listeners.of(database).load(Ordering::SeqCst) > 0)
}

/// Returns the entry of a database, if it has one.
pub fn entry_of(database: Oid) -> Option<usize> {
    shared::signals()?.iter().position(|signals| signals.database.load(Ordering::SeqCst) == database.to_u32())
}

/// Claims a free entry, or the entry of a database that has been dropped.
fn claim(own: u32) -> Option<usize> {
    let all = shared::signals()?;
    let database = |entry: usize| all[entry].database.load(Ordering::Acquire);
    let is_free =
        |entry: &usize| database(*entry) == 0 || catalog::database_name(Oid::from(database(*entry))).is_none();
    loop {
        // Before the lock: this reads the catalog. If another backend is faster, the next one is tried.
        let free = (0..all.len()).find(is_free)?;
        if let Some(entry) = claim_free(own, free, database(free)) {
            return Some(entry);
        }
    }
}

/// Claims an entry that was free when this was its database.
fn claim_free(own: u32, free: usize, found: u32) -> Option<usize> {
    let all = shared::signals()?;
    let mut progress = shared::progress_mut();
    let database = |entry: usize| all[entry].database.load(Ordering::Acquire);
    if let Some(entry) = (0..all.len()).find(|entry| database(*entry) == own) {
        return Some(entry);
    }
    if database(free) != found {
        return None;
    }
    let signals = &all[free];
    // The counts stay: readers compare whether they have changed.
    progress[free] = Progress { commits: signals.owed.load(Ordering::Acquire), ..Progress::default() };
    signals.history.store(0, Ordering::Relaxed);
    signals.last_id.store(0, Ordering::Relaxed);
    signals.leave_until.store(0, Ordering::Relaxed);
    // Of another database before.
    signals.again_left.fetch_add(1, Ordering::SeqCst);
    let Signals { again_pause, next_look, next_sweep_of_waits, next_reap, .. } = signals;
    for time in [again_pause, next_look, next_sweep_of_waits, next_reap] {
        time.store(0, Ordering::Relaxed);
    }
    signals.database.store(own, Ordering::SeqCst);
    Some(free)
}

/// Counts the end of a marked transaction and wakes waiting sessions. Runs in its backend, where nothing may fail.
pub fn count(entry: usize, end: End) {
    let Some(signals) = shared::signals().and_then(|all| all.get(entry)) else { return };
    match end {
        End::CommitsUnflushed => drop(signals.unflushed_begun.fetch_add(1, Ordering::AcqRel)),
        End::UnflushedEnded => drop(signals.unflushed_ended.fetch_add(1, Ordering::AcqRel)),
        End::Prepared => (),
        End::Committed => {
            let notifies = transaction::assigned_id().and_then(area::registered);
            if notifies == Some(false) {
                signals.owed.fetch_add(1, Ordering::SeqCst);
            }
            wake_readers(signals);
            if notifies.is_some() {
                wake_notifier(signals);
            }
        }
    }
}

/// Counts the commit of a prepared transaction, which may have events: PREPARE has ended its mark.
pub fn count_prepared() {
    let Some(signals) = find().and_then(|entry| Some(&shared::signals()?[entry])) else { return };
    signals.owed.fetch_add(1, Ordering::SeqCst);
    wake_readers(signals);
    wake_notifier(signals);
}

/// Counts a commit, and wakes the sessions that wait for one.
fn wake_readers(signals: &Signals) {
    signals.commits.fetch_add(1, Ordering::AcqRel);
    signals.readers.iter().for_each(|reader| latch::set(reader.load(Ordering::Acquire)));
}

/// Wakes the notifier if it sleeps and a session listens: a signal costs the commit more than the rest of its work here.
///
/// The commit has counted itself before it looks; the notifier says that it sleeps before it looks at the count. All of
/// that has one order for all processes, so one of the two sees the other.
fn wake_notifier(signals: &Signals) {
    let sleeps = || signals.is_asleep.load(Ordering::SeqCst) && signals.is_asleep.swap(false, Ordering::SeqCst);
    if is_listened(signals) && sleeps() {
        latch::set(signals.notifier.load(Ordering::Acquire));
    }
}
