//! The notifier: a background worker per database that notifies of its events.
//!
//! It relieves the transactions that write events: NOTIFY takes a lock of the whole cluster until the commit is
//! flushed. The notifier's transactions write nothing else, so their commits wait for no flush.

mod batch;
pub mod launch;
mod status;

use crate::event::payload;
use crate::ffi::shared::{self, Signals};
use crate::ffi::values::clock;
use crate::ffi::{catalog, error, latch, member, session, transaction, worker};
use crate::isolation;
use crate::position::Position;
use crate::settings::{self, Notification};
use batch::{Batch, Window};
use pgrx::pg_sys::{self, Datum, Oid};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Entry point of the background worker. The argument is the database.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_workflow_notifier(database: Datum) {
    let database = Oid::from(database.value() as u32);
    worker::connect(database);
    let entry = shared::signals()
        .and_then(|all| all.iter().position(|signals| signals.database.load(Ordering::Acquire) == database.to_u32()));
    worker::show_name();
    if let Some(mut notifier) = entry.and_then(Notifier::acquire) {
        notifier.run();
    }
}

struct Notifier {
    entry: usize,
    signals: &'static Signals,
    database: String,
    /// The window that is being sent.
    window: Option<Window>,
    backoff: Duration,
}

/// The result of one of the notifier's transactions.
enum Round {
    /// A part of the window is sent.
    Part(Window, Batch),
    /// The window is sent to its end.
    Whole(Window, Batch),
    /// No session has ever listened.
    Idle,
    /// The extension has been dropped.
    Dropped,
}

impl Notifier {
    /// Acquires the database's entry; `None` if it has another notifier.
    fn acquire(entry: usize) -> Option<Notifier> {
        let signals = &shared::signals()?[entry];
        latch::at_exit(release);
        signals.notifier.compare_exchange(null_mut(), latch::mine(), Ordering::AcqRel, Ordering::Relaxed).ok()?;
        signals.leave.store(false, Ordering::Release);
        {
            let progress = &mut shared::progress_mut()[entry];
            progress.pid = session::process_id();
            progress.started_at = clock();
        }
        let database = transaction::run(|| catalog::database_name(session::database())).ok().flatten();
        Some(Notifier { entry, signals, database: database.unwrap_or_default(), window: None, backoff: FIRST_BACKOFF })
    }

    fn run(&mut self) {
        while !self.must_stop() {
            worker::reload_if_signaled();
            let began = Instant::now();
            let window = self.window.clone();
            let pause = match transaction::run(|| self.send_batch(window)) {
                Ok(Round::Dropped) => return,
                Ok(round) => {
                    self.complete(round);
                    settings::batch_delay().saturating_sub(began.elapsed())
                }
                Err(error) => self.fail(&error),
            };
            self.pause(pause);
        }
    }

    fn must_stop(&self) -> bool {
        worker::must_stop() || self.signals.leave.load(Ordering::Acquire)
    }

    /// Sends the next batch of the window, or of a new one.
    fn send_batch(&self, window: Option<Window>) -> Round {
        let Some((history, owner)) = member::relation(c"state_history") else { return Round::Dropped };
        let is_listened = self.signals.listened.load(Ordering::Acquire);
        if !is_listened || self.signals.history.load(Ordering::Acquire) != history.to_u32() {
            return Round::Idle;
        }
        worker::show_activity(Some(c"sending notifications"));
        let commits = self.signals.commits.load(Ordering::Acquire);
        let start = Position::load(&shared::progress()[self.entry]);
        // Not as the superuser: the functions and the triggers of the database are its owner's.
        session::restricted_to(owner, || Notifier::send_from(&start, window, commits))
    }

    /// Sends the next batch of the window, or of one that begins at `start`.
    fn send_from(start: &Position, window: Option<Window>, commits: u64) -> Round {
        let mut window = window.unwrap_or_else(|| Window { end: Position::current(), notified_id: 0, commits });
        let (batch, limit) = match isolation::notification() {
            Notification::Off => (Batch::default(), 1),
            // One notification stands for all events of the window.
            Notification::Wakeup => (Batch::send(start, &window, 1, |_| String::new()), 2),
            Notification::Events => {
                let limit = settings::batch_size();
                (Batch::send(start, &window, limit, payload), limit)
            }
        };
        if batch.count < limit.into() {
            return Round::Whole(window, batch);
        }
        window.notified_id = batch.last_id;
        Round::Part(window, batch)
    }

    /// Stores the result of a transaction that has committed. Waits for a commit if there is nothing to send.
    fn complete(&mut self, round: Round) {
        self.backoff = FIRST_BACKOFF;
        worker::report_statistics();
        match round {
            Round::Part(window, batch) => {
                batch.add_to(&mut shared::progress_mut()[self.entry]);
                self.window = Some(window);
            }
            Round::Whole(window, batch) => {
                self.window = None;
                {
                    let progress = &mut shared::progress_mut()[self.entry];
                    batch.add_to(progress);
                    window.end.store(progress);
                    progress.commits = window.commits;
                    progress.caught_up_at = clock();
                }
                if self.signals.commits.load(Ordering::Acquire) == window.commits {
                    self.wait_for_commit();
                }
            }
            Round::Idle | Round::Dropped => self.wait_for_commit(),
        }
    }

    /// Waits until a commit wakes the notifier, or pg_workflow.poll_interval has passed.
    fn wait_for_commit(&self) {
        worker::show_activity(None);
        if !self.must_stop() {
            worker::wait(settings::poll_interval());
        }
    }

    /// Pauses between batches, so that events collect, and after an error.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.must_stop() && Instant::now() < until {
            worker::wait(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Logs an error and returns the pause before the next attempt.
    fn fail(&mut self, error: &str) -> Duration {
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        {
            let progress = &mut shared::progress_mut()[self.entry];
            progress.errors += 1;
            progress.last_error_at = clock();
            progress.last_error.set(&error[..error.floor_char_boundary(512)]);
        }
        error::log(
            &format!(
                "could not send notifications in database \"{}\": {error}; retrying in {} s",
                self.database,
                pause.as_secs()
            ),
            "Fix the cause. Consumers and followers still receive every event.",
        );
        worker::show_activity(None);
        pause
    }
}

/// Releases the entry of the notifier that has this latch.
fn release(own: *mut pg_sys::Latch) {
    for (entry, signals) in shared::signals().into_iter().flatten().enumerate() {
        if signals.notifier.compare_exchange(own, null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let progress = &mut shared::progress_mut()[entry];
            (progress.pid, progress.requested_at) = (0, 0);
        }
    }
}
