//! The notifier: a background worker of each database that announces its events, so that the transactions that write
//! them need not. NOTIFY takes a lock of the whole cluster until the commit is flushed; the notifier's transactions
//! write nothing else, and such a commit waits for no flush.

use crate::announce::{Event, payload};
use crate::ffi::jsonb::Jsonb;
use crate::ffi::notify::notify;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::shared::{self, Progress, Signals};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{clock, text, text_datum};
use crate::ffi::{error, latch, session, transaction, worker};
use crate::settings::{self, Announce};
use crate::signals::{CHANNEL, Place};
use pgrx::pg_sys::{self, Datum, Oid};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Where the process begins. The argument is the database.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_workflow_notifier(database: Datum) {
    let database = Oid::from(database.value() as u32);
    worker::connect(database);
    let entry = shared::signals()
        .and_then(|all| all.iter().position(|signals| signals.database.load(Ordering::Acquire) == database.to_u32()));
    worker::show_name();
    if let Some(mut notifier) = entry.and_then(Notifier::begin) {
        notifier.work();
    }
}

struct Notifier {
    entry: usize,
    signals: &'static Signals,
    database: String,
    /// The window that is being announced.
    window: Option<Window>,
    backoff: Duration,
}

/// The events between the notifier's place and another, and the last of them that has been announced.
#[derive(Clone)]
struct Window {
    end: Place,
    announced_id: i64,
    /// The count of commits before it was opened: it holds what they wrote.
    commits: u64,
}

/// What a transaction of the notifier has done, once it is committed.
enum Round {
    /// It has announced a part of the window.
    Part(Window, Batch),
    /// It has announced the window's last events, if any.
    Whole(Window, Batch),
    /// Nobody has ever listened.
    Idle,
    /// The extension has been dropped.
    Homeless,
}

impl Notifier {
    /// Takes the database's entry; None where another notifier has it.
    fn begin(entry: usize) -> Option<Notifier> {
        let signals = &shared::signals()?[entry];
        latch::at_exit(end);
        signals.notifier.compare_exchange(null_mut(), latch::mine(), Ordering::AcqRel, Ordering::Relaxed).ok()?;
        signals.leave.store(false, Ordering::Release);
        {
            let progress = &mut shared::progress_mut()[entry];
            progress.pid = session::process_id();
            progress.started_at = clock();
        }
        let database = transaction::run(|| session::database_name(session::database())).ok().flatten();
        Some(Notifier { entry, signals, database: database.unwrap_or_default(), window: None, backoff: FIRST_BACKOFF })
    }

    fn work(&mut self) {
        while !self.must_end() {
            worker::reload_if_told();
            let began = Instant::now();
            let window = self.window.clone();
            let pause = match transaction::run(|| self.round(window)) {
                Ok(Round::Homeless) => return,
                Ok(round) => {
                    self.note(round);
                    settings::batch_delay().saturating_sub(began.elapsed())
                }
                Err(error) => self.failed(&error),
            };
            self.pause(pause);
        }
    }

    fn must_end(&self) -> bool {
        worker::is_told_to_stop() || self.signals.leave.load(Ordering::Acquire)
    }

    /// Announces the next batch of the window, or of a new one. The commit of the transaction sends the notifications.
    fn round(&self, window: Option<Window>) -> Round {
        let Some((history, _)) = session::table(c"workflow", c"state_history") else { return Round::Homeless };
        let is_listened = self.signals.listened.load(Ordering::Acquire);
        if !is_listened || self.signals.history.load(Ordering::Acquire) != history.to_u32() {
            return Round::Idle;
        }
        worker::show_activity(Some(c"announcing events"));
        let commits = self.signals.commits.load(Ordering::Acquire);
        let place = Place::load(&shared::progress()[self.entry]);
        let mut window = window.unwrap_or_else(|| Window { end: Place::current(), announced_id: 0, commits });
        let (batch, limit) = match settings::announce() {
            Announce::Off => (Batch::default(), 1),
            // One wake-up stands for all that the window holds.
            Announce::Wakeup => (announce_between(&place, &window, 1, |_| String::new()), 2),
            Announce::Events => {
                let limit = settings::batch_size();
                (announce_between(&place, &window, limit, payload), limit)
            }
        };
        if batch.count < limit.into() {
            return Round::Whole(window, batch);
        }
        window.announced_id = batch.last_id;
        Round::Part(window, batch)
    }

    fn note(&mut self, round: Round) {
        self.backoff = FIRST_BACKOFF;
        worker::report_statistics();
        match round {
            Round::Part(window, batch) => {
                batch.note(&mut shared::progress_mut()[self.entry]);
                self.window = Some(window);
            }
            Round::Whole(window, batch) => {
                self.window = None;
                {
                    let progress = &mut shared::progress_mut()[self.entry];
                    batch.note(progress);
                    window.end.store(progress);
                    progress.commits = window.commits;
                    progress.caught_up_at = clock();
                }
                if self.signals.commits.load(Ordering::Acquire) == window.commits {
                    self.wait_for_news();
                }
            }
            Round::Idle | Round::Homeless => self.wait_for_news(),
        }
    }

    /// Until a commit wakes it, or it is time to look by itself.
    fn wait_for_news(&self) {
        worker::show_activity(None);
        if !self.must_end() {
            worker::wait(settings::poll_interval());
        }
    }

    /// Lets events come together, or time pass after an error.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.must_end() && Instant::now() < until {
            worker::wait(until.saturating_duration_since(Instant::now()));
        }
    }

    fn failed(&mut self, error: &str) -> Duration {
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        {
            let progress = &mut shared::progress_mut()[self.entry];
            progress.errors += 1;
            progress.last_error_at = clock();
            progress.last_error.set(&error[..error.floor_char_boundary(512)]);
        }
        error::log(
            &format!("the notifier of database \"{}\" cannot announce events: {error}", self.database),
            &format!("It tries again in {} s. Readers of the feed miss nothing.", pause.as_secs()),
        );
        worker::show_activity(None);
        pause
    }
}

/// Gives back the entry of the notifier whose latch this is.
fn end(own: *mut pg_sys::Latch) {
    for (entry, signals) in shared::signals().into_iter().flatten().enumerate() {
        if signals.notifier.compare_exchange(own, null_mut(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let progress = &mut shared::progress_mut()[entry];
            (progress.pid, progress.requested_at) = (0, 0);
        }
    }
}

#[derive(Default)]
struct Batch {
    count: i64,
    last_id: i64,
}

impl Batch {
    fn note(&self, progress: &mut Progress) {
        if self.count > 0 {
            progress.events += self.count;
            progress.batches += 1;
            progress.last_event_id = self.last_id;
            progress.announced_at = clock();
        }
    }
}

/// Notifies of the next events of a window, `limit` at most.
fn announce_between(place: &Place, window: &Window, limit: i32, spell: impl Fn(&Event) -> String) -> Batch {
    thread_local! {
        static READ: Plan = Plan::new(
            "SELECT e.id, e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id, e.old_state, e.new_state, \
                 e.version, e.changed_at, e.actor, e.metadata \
             FROM workflow.events_between($1::pg_catalog.pg_snapshot, $2, $3, \
                 $4::pg_catalog.pg_snapshot, $5, $6, $7, $8, $9) AS e"
                .to_owned(),
            &[
                pg_sys::TEXTOID,
                pg_sys::XID8OID,
                pg_sys::INT8OID,
                pg_sys::TEXTOID,
                pg_sys::XID8OID,
                pg_sys::INT8OID,
                pg_sys::INT8OID,
                pg_sys::INT8OID,
                pg_sys::INT4OID,
            ],
        );
    }
    let end = &window.end;
    let arguments = [
        text_datum(&place.snapshot),
        Datum::from(place.next_transaction_id),
        Datum::from(place.floor_id),
        text_datum(&end.snapshot),
        Datum::from(end.next_transaction_id),
        Datum::from(end.floor_id),
        Datum::from(end.ceiling_id),
        Datum::from(window.announced_id),
        Datum::from(limit),
    ]
    .map(Some);
    READ.with(|plan| {
        plan.run(&arguments, |rows| {
            (0..rows.len()).for_each(|row| notify(CHANNEL, &spell(&event(&rows, row))));
            let last_id = if rows.len() == 0 { 0 } else { rows.get_i64(rows.len() - 1, 1) };
            Batch { count: rows.len() as i64, last_id }
        })
    })
}

/// A row of the statement above.
fn event(rows: &Rows, row: usize) -> Event<'_> {
    // SAFETY: column by column the statement returns a uuid, a text, a jsonb where it is read as one, and its values
    // live as long as the rows.
    let uuid = |column| rows.get(row, column).map_or(Uuid([0; 16]), |value| unsafe { Uuid::from_datum(value) });
    // SAFETY: as above.
    let name = |column| rows.get(row, column).map(|value| unsafe { text(value) });
    // SAFETY: as above.
    let metadata = rows.get(row, 12).map(|value| unsafe { Jsonb::from_raw(value) });
    Event {
        id: rows.get_i64(row, 1),
        entity_type: name(2).unwrap_or_default(),
        entity_id: uuid(3),
        dag_id: uuid(4),
        dag_run_id: uuid(5),
        task_id: name(6),
        old_state: name(7),
        new_state: name(8).unwrap_or_default(),
        version: rows.get_i64(row, 9),
        changed_at: rows.get_i64(row, 10),
        actor: name(11).unwrap_or_default(),
        metadata: metadata.unwrap_or_else(Jsonb::empty_object),
    }
}
