//! From a commit to those who wait for it: the notifier, and sessions in `read_events()`.
//!
//! The transaction only marks itself. When it has committed, and is visible to others, its backend counts it in shared
//! memory and wakes them.

use crate::ffi::plan::Plan;
use crate::ffi::shared::{self, Progress, READERS, Signals};
use crate::ffi::transaction::{self, Moment};
use crate::ffi::utility::{self, Statement};
use crate::ffi::values::{clock, text};
use crate::ffi::{latch, session, worker};
use pgrx::pg_sys::{Latch, Oid};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The channel that notifications are sent on.
pub const CHANNEL: &str = "workflow_events";
/// When a notifier that was asked for and has not started is asked for again.
const PATIENCE_MICROSECONDS: i64 = 5_000_000;

/// Called while the library is preloaded.
pub fn prepare() {
    shared::request();
    transaction::register(heard);
    utility::before_each(|statement| match statement {
        Statement::Listen(CHANNEL) => listened(),
        Statement::Listen(_) => (),
        Statement::NeedsDatabase(name) => leave(name),
    });
}

/// Whether the library was preloaded.
pub fn is_possible() -> bool {
    shared::signals().is_some()
}

/// This database's entry in shared memory; None where there is none to be had, or no such memory.
pub fn entry() -> Option<usize> {
    static KNOWN: AtomicUsize = AtomicUsize::new(0);
    let all = shared::signals()?;
    let own = session::database().to_u32();
    let is_own = |entry: &usize| all[*entry].database.load(Ordering::Acquire) == own;
    let known = KNOWN.load(Ordering::Relaxed);
    if is_own(&known) {
        return Some(known);
    }
    let entry = (0..all.len()).find(is_own).or_else(|| claim(own))?;
    KNOWN.store(entry, Ordering::Relaxed);
    Some(entry)
}

/// Takes a free entry, or that of a database which has been dropped.
fn claim(own: u32) -> Option<usize> {
    let all = shared::signals()?;
    let owner = |entry: usize| all[entry].database.load(Ordering::Acquire);
    let is_gone = |entry: &usize| owner(*entry) == 0 || session::database_name(Oid::from(owner(*entry))).is_none();
    // Before the lock: this reads the catalog.
    let free = (0..all.len()).find(is_gone)?;
    let found = owner(free);
    let mut progress = shared::progress_mut();
    if let Some(entry) = (0..all.len()).find(|entry| owner(*entry) == own) {
        return Some(entry);
    }
    if owner(free) != found || progress[free].pid != 0 {
        // Somebody else was faster. The next event tries again.
        return None;
    }
    progress[free] = Progress { commits: all[free].commits.load(Ordering::Acquire), ..Progress::default() };
    let Signals { listened, history, leave, .. } = &all[free];
    // The counts go on: what is compared is whether they have changed.
    listened.store(false, Ordering::Relaxed);
    history.store(0, Ordering::Relaxed);
    leave.store(false, Ordering::Relaxed);
    all[free].database.store(own, Ordering::Release);
    Some(free)
}

/// Sees to it that the notifier knows where to begin and runs. Returns false where none can be had.
pub fn ensure_notifier(entry: usize, history: Oid, owner: Oid) -> bool {
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return false };
    if signals.listened.load(Ordering::Acquire) {
        ensure_place(entry, history, owner);
    }
    if !signals.notifier.load(Ordering::Acquire).is_null() {
        return true;
    }
    let now = clock();
    {
        let progress = &mut shared::progress_mut()[entry];
        if progress.pid != 0 || now - progress.requested_at < PATIENCE_MICROSECONDS {
            return true;
        }
        progress.requested_at = now;
    }
    let started = worker::start("pg_workflow_notifier", session::database());
    if !started {
        shared::progress_mut()[entry].requested_at = 0;
    }
    started
}

/// The notifier announces what is not visible at this moment: by whoever comes first, be it the first LISTEN or, where
/// the extension is newer than that, the first event.
fn ensure_place(entry: usize, history: Oid, owner: Oid) {
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    if signals.history.load(Ordering::Acquire) == history.to_u32() {
        return;
    }
    let place = session::as_owner(owner, Place::current);
    let mut all = shared::progress_mut();
    if signals.history.load(Ordering::Acquire) != history.to_u32() {
        place.store(&mut all[entry]);
        all[entry].commits = signals.commits.load(Ordering::Acquire);
        all[entry].caught_up_at = clock();
        signals.history.store(history.to_u32(), Ordering::Release);
    }
}

/// A place in the feed; see sql/07_events.sql.
#[derive(Clone)]
pub struct Place {
    pub snapshot: String,
    pub next_transaction_id: i64,
    pub floor_id: i64,
    /// No event of the window up to this place has an id above it.
    pub ceiling_id: i64,
}

impl Place {
    /// All that is visible now.
    pub fn current() -> Place {
        thread_local! {
            static ASK: Plan = Plan::new(
                "SELECT p.snapshot::pg_catalog.text, p.next_transaction_id, p.floor_id, p.ceiling_id \
                 FROM workflow.current_place() AS p"
                    .to_owned(),
                &[],
            );
        }
        ASK.with(|plan| {
            plan.run(&[], |rows| Place {
                // SAFETY: column 1 is a text.
                snapshot: rows.get(0, 1).map(|value| unsafe { text(value) }.to_owned()).unwrap_or_default(),
                next_transaction_id: rows.get_i64(0, 2),
                floor_id: rows.get_i64(0, 3),
                ceiling_id: rows.get_i64(0, 4),
            })
        })
    }

    pub fn load(progress: &Progress) -> Place {
        Place {
            snapshot: progress.snapshot.get().to_owned(),
            next_transaction_id: progress.next_transaction_id,
            floor_id: progress.floor_id,
            ceiling_id: 0,
        }
    }

    pub fn store(&self, progress: &mut Progress) {
        progress.next_transaction_id = self.next_transaction_id;
        progress.floor_id = self.floor_id;
        if !progress.snapshot.set(&self.snapshot) {
            // More transactions are under way than fit in. Taking all from the oldest one on for unseen announces some
            // events twice after a restart of the notifier, and loses none.
            let oldest = self.snapshot.split(':').next().unwrap_or_default();
            progress.snapshot.set(&format!("{oldest}:{oldest}:"));
        }
    }
}

/// Somebody says LISTEN, and is to hear of what commits from now on.
fn listened() {
    if session::is_standby() {
        return;
    }
    let Some(entry) = entry() else { return };
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    if signals.listened.load(Ordering::Acquire) {
        return;
    }
    // Without the extension there is no place yet; the first event will make one.
    if let Some((history, owner)) = session::table(c"workflow", c"state_history") {
        ensure_place(entry, history, owner);
    }
    signals.listened.store(true, Ordering::Release);
}

/// Somebody wants to drop, rename, move or copy a database: its notifier must not be in the way. The statement itself
/// waits some seconds for other sessions to end. The next event brings the notifier back.
fn leave(database: &str) {
    let Some(oid) = session::database_oid(database) else { return };
    let Some(all) = shared::signals() else { return };
    if let Some(signals) = all.iter().find(|signals| signals.database.load(Ordering::Acquire) == oid.to_u32()) {
        signals.leave.store(true, Ordering::Release);
        latch::set(signals.notifier.load(Ordering::Acquire));
    }
}

/// Runs in the backend whose transaction it is about, where nothing may fail.
fn heard(entry: usize, moment: Moment) {
    let Some(signals) = shared::signals().and_then(|all| all.get(entry)) else { return };
    match moment {
        Moment::CommitsUnflushed => drop(signals.unflushed_begun.fetch_add(1, Ordering::AcqRel)),
        Moment::UnflushedEnded => drop(signals.unflushed_ended.fetch_add(1, Ordering::AcqRel)),
        Moment::Committed => {
            signals.commits.fetch_add(1, Ordering::AcqRel);
            signals.readers.iter().for_each(|reader| latch::set(reader.load(Ordering::Acquire)));
            if signals.listened.load(Ordering::Acquire) {
                latch::set(signals.notifier.load(Ordering::Acquire));
            }
        }
    }
}

/// A place among those who are woken, for as long as it lives.
pub struct Woken(Option<&'static AtomicPtr<Latch>>);

impl Woken {
    /// None of the places may be free: then the caller is not woken and must look by itself.
    pub fn by(signals: &'static Signals) -> Woken {
        static CLEANS_UP: std::sync::Once = std::sync::Once::new();
        CLEANS_UP.call_once(|| latch::at_exit(forget));
        let own = latch::mine();
        let take = |place: &&AtomicPtr<Latch>| {
            place.compare_exchange(null_mut(), own, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        Woken(signals.readers.iter().find(take))
    }

    pub fn is_certain(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Woken {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.store(null_mut(), Ordering::Release);
        }
    }
}

/// Frees the places of a backend that was ended while it waited.
fn forget(own: *mut Latch) {
    for place in shared::signals().into_iter().flatten().flat_map(|signals| &signals.readers[..READERS]) {
        let _ = place.compare_exchange(own, null_mut(), Ordering::AcqRel, Ordering::Relaxed);
    }
}
