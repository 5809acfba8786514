//! A witness: a client that reads events during the whole run, and records each of them.

use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::event::Event;
use super::receivers::Break;
use super::session::{Session, Verdict, verdict};
use crate::PATIENCE;

/// The time after the last event during which repetitions can still arrive.
const LINGERS: Duration = Duration::from_secs(1);
/// The time without the last event after which it counts as lost.
const GIVES_UP: Duration = Duration::from_secs(30);
/// The last event is looked for among so many.
const RECENT: usize = 1000;
/// The pause after an error that another attempt may mend.
pub const PAUSE: Duration = Duration::from_millis(50);

/// The promise that the events of a witness are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Exactly once while it is connected; nothing while it is not.
    WhileConnected,
    /// Exactly once, over all reconnections.
    ExactlyOnce,
    /// At least once. It records the repetition of an acknowledged event as an error.
    AtLeastOnce,
}

/// The record of one witness. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub struct Record {
    pub name: String,
    pub promise: Promise,
    pub sightings: Vec<Sighting>,
    /// The times without a connection.
    pub breaks: Vec<Break>,
    /// Responses that it must never get.
    pub errors: Vec<String>,
}

/// An event, and the time of its arrival.
#[derive(Debug, Clone, Copy)]
pub struct Sighting {
    pub at: i64,
    pub event: Event,
}

/// A running witness.
#[derive(Debug)]
pub struct Witness {
    signals: Arc<Signals>,
    thread: JoinHandle<Result<Record>>,
}

#[derive(Debug, Default)]
struct Signals {
    is_ready: AtomicBool,
    /// The entity of the last event.
    last: OnceLock<Uuid>,
    gives_up: AtomicBool,
}

impl Witness {
    /// Starts a witness, and waits until it misses no event from now on.
    pub fn start(
        name: &str,
        promise: Promise,
        read: impl FnOnce(&mut Recorder) -> Result<()> + Send + 'static,
    ) -> Result<Witness> {
        let signals = Arc::new(Signals::default());
        let record =
            Record { name: name.to_owned(), promise, sightings: Vec::new(), breaks: Vec::new(), errors: Vec::new() };
        let mut recorder = Recorder { record, signals: signals.clone(), last_seen: None, alive_at: 0 };
        let thread = std::thread::spawn(move || {
            read(&mut recorder)?;
            Ok(recorder.record)
        });
        let deadline = Instant::now() + PATIENCE;
        while !signals.is_ready.load(Ordering::Acquire) && !thread.is_finished() {
            if Instant::now() >= deadline {
                bail!("the {name} was not ready within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Witness { signals, thread })
    }

    /// Names the entity of the last event.
    pub fn end_with(&self, last: Uuid) {
        let _ = self.signals.last.set(last);
    }

    /// Waits until the witness has seen the last event. If it does not, the record lacks it.
    pub fn finish(self) -> Result<Record> {
        let deadline = Instant::now() + GIVES_UP;
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                self.signals.gives_up.store(true, Ordering::Release);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.thread.join().ok().context("a witness panicked")?
    }
}

/// Records the events of one witness, and tells when it can end.
pub struct Recorder {
    record: Record,
    signals: Arc<Signals>,
    last_seen: Option<Instant>,
    /// The time of the last response.
    alive_at: i64,
}

impl Recorder {
    pub fn name(&self) -> &str {
        &self.record.name
    }

    pub fn is_ready(&self) {
        self.signals.is_ready.store(true, Ordering::Release);
    }

    pub fn see(&mut self, event: Event) {
        self.alive_at = now();
        self.record.sightings.push(Sighting { at: self.alive_at, event });
    }

    /// Records the end of a time without a connection.
    pub fn connects(&mut self) {
        let to = now();
        self.record.breaks.push(Break { from: self.alive_at, to });
        self.alive_at = to;
    }

    pub fn complain(&mut self, error: impl Into<String>) {
        self.record.errors.push(error.into());
    }

    /// Returns whether there is nothing more to wait for.
    pub fn is_over(&mut self) -> bool {
        if self.last_seen.is_none()
            && let Some(last) = self.signals.last.get()
            && self.record.sightings.iter().rev().take(RECENT).any(|seen| seen.event.entity == *last)
        {
            self.last_seen = Some(Instant::now());
        }
        self.last_seen.is_some_and(|at| at.elapsed() > LINGERS) || self.signals.gives_up.load(Ordering::Acquire)
    }

    /// Judges the error of a statement, which is repeated; returns false if its repetition cannot succeed.
    pub fn accepts(&mut self, session: &mut Session, error: &anyhow::Error) -> bool {
        std::thread::sleep(PAUSE);
        match verdict(error) {
            Some(Verdict::Unknown) => session.reset(),
            Some(Verdict::Conflict) => (),
            Some(Verdict::Wrong) | None => {
                self.complain(format!("{error:#}"));
                session.reset();
                return false;
            }
        }
        true
    }
}

pub fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
