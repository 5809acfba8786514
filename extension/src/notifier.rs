//! The notifier: a background worker per database that notifies of its events.
//!
//! It relieves the transactions that write events: NOTIFY takes a lock of the whole cluster until the commit is
//! flushed. The notifier's transactions write nothing else, so their commits wait for no flush.

mod batch;
pub mod handover;
pub mod launch;
mod state;
mod status;

use crate::ffi::plan::Plan;
use crate::ffi::shared::{self, Signals};
use crate::ffi::transaction::{self, Failure};
use crate::ffi::values::clock;
use crate::ffi::{catalog, error, latch, member, session, worker};
use crate::position::{self, Position};
use crate::{isolation, settings, signals};
use batch::Batch;
use pgrx::pg_sys::{self, Datum, Oid};
use state::{State, Window};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// How many times as long as a round the notifier pauses after it: short rounds take 5 % of a core at most.
const PAUSE_PER_ROUND: u32 = 20;
/// The longest of these pauses, which delay the listeners.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// How often to look whether a transaction has created the extension.
const CREATION_INTERVAL: Duration = Duration::from_millis(200);
const READERS_CONTINUE: &str = "Fix the cause. Consumers and followers still receive every event.";

/// Entry point of the background worker. The argument is the database.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_workflow_notifier(database: Datum) {
    let database = Oid::from(database.value() as u32);
    // A dropped database has no entry: the worker ends for good.
    let Some(entry) = signals::entry_of(database) else { return };
    if !must_leave(entry) {
        worker::connect(database);
        worker::show_name();
        let ended = match Notifier::acquire(entry, database) {
            Ok(mut notifier) => notifier.run(),
            Err(ended) => ended,
        };
        if matches!(ended, Ended::ForGood) {
            return;
        }
    }
    worker::exit_to_restart();
}

/// Whether a statement wants the database for itself.
fn must_leave(entry: usize) -> bool {
    shared::signals().is_some_and(|all| clock() < all[entry].leave_until.load(Ordering::Acquire))
}

struct Notifier {
    entry: usize,
    signals: &'static Signals,
    database: String,
    backoff: Duration,
    /// Whether the last transaction waited for a lock in vain.
    is_locked_out: bool,
    /// How many events to send at once, after one of them could not be sent.
    limit: Option<i32>,
}

/// How the notifier ends.
enum Ended {
    /// The postmaster starts it again.
    ForNow,
    /// An event or a LISTEN starts another one.
    ForGood,
}

/// The result of one of the notifier's transactions.
enum Round {
    /// A batch of the open window is sent. The table says to which history it belongs.
    Sent(Oid, Box<(State, Window)>, Batch),
    /// There is nothing to send: no session listens.
    Idle,
    /// A transaction creates the extension.
    Coming,
    /// The extension has been dropped, or the database shall have no notifier; and the history that was known then.
    Unwanted(u32),
}

impl Notifier {
    /// Acquires the database's entry, unless it has another notifier.
    fn acquire(entry: usize, database: Oid) -> Result<Notifier, Ended> {
        let signals = &shared::signals().ok_or(Ended::ForGood)?[entry];
        latch::at_exit(release);
        {
            let progress = &mut shared::progress_mut()[entry];
            if progress.pid != 0 {
                return Err(Ended::ForGood);
            }
            // The notifier of an earlier database of this entry may be about to end.
            let is_free = signals
                .notifier
                .compare_exchange(null_mut(), latch::mine(), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
            if !is_free || signals.database.load(Ordering::Acquire) != database.to_u32() {
                return Err(Ended::ForNow);
            }
            progress.pid = session::process_id();
            progress.started_at = clock();
        }
        let database = transaction::run(|| catalog::database_name(database)).ok().flatten().unwrap_or_default();
        Ok(Notifier { entry, signals, database, backoff: FIRST_BACKOFF, is_locked_out: false, limit: None })
    }

    fn run(&mut self) -> Ended {
        while !self.must_stop() {
            worker::reload_if_signaled();
            let began = Instant::now();
            let owed = self.signals.owed.load(Ordering::SeqCst);
            match transaction::run(|| self.send_batch()) {
                Ok(Round::Unwanted(history)) if self.retire(history) => return Ended::ForGood,
                Ok(Round::Coming) => self.pause(CREATION_INTERVAL),
                Ok(round) => {
                    let caught_up_to = self.complete(round, owed);
                    self.rest(began.elapsed(), caught_up_to);
                }
                Err(failure) => {
                    let pause = self.fail(&failure);
                    self.pause(pause);
                }
            }
        }
        Ended::ForNow
    }

    fn must_stop(&self) -> bool {
        worker::must_stop() || must_leave(self.entry)
    }

    /// Sends the next batch of the window, or of a new one.
    fn send_batch(&self) -> Round {
        let mut known = self.signals.history.load(Ordering::Acquire);
        let Some((history, owner)) = member::relation(c"state_history") else {
            return if self.is_extension_coming() { Round::Coming } else { Round::Unwanted(known) };
        };
        let is_served = settings::serves(|| Some(self.database.clone()));
        if !is_served {
            handover::hand_back(&mut shared::progress_mut()[..], self.entry);
        }
        if known != 0 && !signals::is_listened(self.signals) {
            handover::forget_unheard(self.signals);
            known = self.signals.history.load(Ordering::Acquire);
        }
        if known != history.to_u32() {
            if is_served && known == 0 {
                handover::take_over(self.entry, 0);
            }
            return if is_served { Round::Idle } else { Round::Unwanted(known) };
        }
        worker::show_activity(Some(c"sending notifications"));
        // Not as the superuser: the functions and the triggers of the database are its owner's.
        session::restricted_to(owner, || {
            let Some((state, window)) = self.window(history, is_served) else { return Round::Unwanted(known) };
            let limit = self.limit.unwrap_or_else(settings::batch_size);
            let batch = Batch::send(&state.position, &window, limit, isolation::notification());
            Round::Sent(history, Box::new((state, window)), batch)
        })
    }

    /// Whether a transaction is creating the extension, or has just committed that.
    fn is_extension_coming(&self) -> bool {
        thread_local! {
            static LOOK_UP: Plan = Plan::new(
                "SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname OPERATOR(pg_catalog.=) 'pg_workflow'".to_owned(),
                &[],
            );
        }
        // In this order: it may commit in between. Not by the cache of names: a commit is visible before the caches know.
        handover::coming_history(self.entry).is_some() || LOOK_UP.with(|plan| plan.run(&[], |rows| rows.len() > 0))
    }

    /// Takes the window from the state, or opens one; `None` if there is nothing more to do in a database that shall have
    /// no notifier.
    fn window(&self, history: Oid, is_served: bool) -> Option<(State, Window)> {
        let load = || State::load(&shared::progress()[..], self.entry);
        let mut state = load();
        if state.window.is_none() && !is_served && state.duty.is_done_at(&state.position) {
            return None;
        }
        if state.window.is_none() {
            let commits = self.signals.owed.load(Ordering::Acquire);
            let floor_id = position::last_id();
            if is_served && shared::progress()[self.entry].is_handed_back {
                handover::take_over(self.entry, floor_id);
                state = load();
            } else {
                let end = Position::above(floor_id);
                let ceiling_id = position::last_id();
                state.window = Some(Window { end, ceiling_id, notified_id: 0, commits, duty: state.duty.clone() });
                self.store(history, &state);
            }
        }
        let window = state.window.take()?;
        Some((state, window))
    }

    /// Stores the state, unless the extension has been created again meanwhile.
    fn store(&self, history: Oid, state: &State) {
        let mut progress = shared::progress_mut();
        if self.signals.history.load(Ordering::Acquire) == history.to_u32() {
            state.store(&mut progress[..], self.entry);
        }
    }

    /// Stores the result of a transaction that has committed. `owed`: the number of owed commits before it. Returns how many
    /// of them need nothing more; `None` if the window has more to send.
    fn complete(&mut self, round: Round, owed: u64) -> Option<u64> {
        self.backoff = FIRST_BACKOFF;
        self.is_locked_out = false;
        worker::report_statistics();
        worker::show_activity(None);
        let Round::Sent(history, sent, batch) = round else { return Some(owed) };
        let (mut state, mut window) = *sent;
        let commits = window.commits;
        if batch.is_last {
            state.position = window.end;
            self.limit = None;
        } else {
            window.notified_id = batch.last_id;
            state.window = Some(window);
        }
        self.store(history, &state);
        let progress = &mut shared::progress_mut()[self.entry];
        batch.add_to(progress);
        if batch.is_last {
            progress.commits = commits;
            progress.caught_up_at = clock();
        }
        batch.is_last.then_some(commits)
    }

    /// Lets events collect after a round. If the notifier has caught up, it then sleeps until there are more.
    fn rest(&self, round: Duration, caught_up_to: Option<u64>) {
        let delay = settings::batch_delay().saturating_sub(round);
        let Some(owed) = caught_up_to else { return self.pause(delay) };
        self.pause(delay.max((round * PAUSE_PER_ROUND).min(LONGEST_PAUSE)));
        self.sleep(owed);
    }

    /// Sleeps until a commit wakes the notifier, or pg_workflow.poll_interval has passed. Not if the pause has swallowed the
    /// signal of a commit or of a reload.
    fn sleep(&self, owed: u64) {
        // First of all: a commit that is not seen below sees this, and wakes the notifier.
        self.signals.is_asleep.store(true, Ordering::SeqCst);
        let has_more = signals::is_listened(self.signals) && self.signals.owed.load(Ordering::SeqCst) != owed;
        let has_reloaded = worker::reload_if_signaled();
        if !has_more && !has_reloaded && !self.must_stop() {
            worker::wait(settings::poll_interval());
        }
        self.signals.is_asleep.store(false, Ordering::SeqCst);
    }

    /// Pauses between batches, so that events collect, and after an error.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.must_stop() && Instant::now() < until {
            worker::wait(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Reports an error and returns the pause before the next attempt.
    fn fail(&mut self, failure: &Failure) -> Duration {
        worker::show_activity(None);
        if failure.is_lock_timeout() {
            // It queues for the lock again at once, and so continues as soon as the lock is free.
            if !std::mem::replace(&mut self.is_locked_out, true) {
                self.report(&format!("{}; waiting for the lock", failure.message), READERS_CONTINUE);
            }
            return Duration::ZERO;
        }
        if failure.is_of_data() {
            let limit = self.limit.unwrap_or_else(settings::batch_size);
            if limit > 1 {
                self.limit = Some(limit / 2);
                return Duration::ZERO;
            }
            if self.skip(failure) {
                return Duration::ZERO;
            }
        }
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        self.report(&format!("{}; retrying in {} s", failure.message, pause.as_secs()), READERS_CONTINUE);
        pause
    }

    /// Leaves out the next event, which cannot be sent. Returns false if even its ID cannot be read.
    fn skip(&mut self, failure: &Failure) -> bool {
        let next = transaction::run(|| {
            let (history, owner) = member::relation(c"state_history")?;
            session::restricted_to(owner, || {
                let (mut state, mut window) = self.window(history, true)?;
                let id = Batch::next_id(&state.position, &window)?;
                window.notified_id = id;
                state.window = Some(window);
                Some((history, state, id))
            })
        });
        let Ok(Some((history, state, id))) = next else { return false };
        self.store(history, &state);
        self.limit = None;
        self.report(
            &format!("event {id}: {}; skipped", failure.message),
            "The stored event may be corrupt. Consumers stop at it: see workflow.skip_event().",
        );
        true
    }

    /// Counts and logs an error.
    fn report(&self, error: &str, hint: &str) {
        shared::progress_mut()[self.entry].fail(error, clock());
        error::log(&format!("could not send notifications in database \"{}\": {error}", self.database), hint);
    }

    /// Releases the entry for good, unless sessions have given the notifier another history to send.
    fn retire(&self, history: u32) -> bool {
        let mut progress = shared::progress_mut();
        if self.signals.history.compare_exchange(history, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        progress[self.entry].is_registered = false;
        release_entry(self.entry, &mut progress[self.entry], latch::mine());
        true
    }
}

/// Releases the entry of the notifier that has this latch.
fn release(own: *mut pg_sys::Latch) {
    for entry in 0..shared::DATABASES {
        release_entry(entry, &mut shared::progress_mut()[entry], own);
    }
}

fn release_entry(entry: usize, progress: &mut shared::Progress, own: *mut pg_sys::Latch) {
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    if signals.notifier.compare_exchange(own, null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        (progress.pid, progress.requested_at) = (0, clock());
    }
}
