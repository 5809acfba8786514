//! Writers: they move entities in every possible way, and record all confirmed transitions.

use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::session::Session;
use super::writer::{Writer, create_triggers};
use crate::{create_run, create_tasks};

/// The record of the writers.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Confirmed transitions and creations, as entity and version.
    pub acknowledged: Vec<(Uuid, i64)>,
    /// Responses that a writer must never get.
    pub complaints: Vec<String>,
    pub counts: Counts,
}

/// What the writers did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Statements and commits without a response.
    pub unanswered: u64,
    /// Transactions that the writers rolled back themselves.
    pub rolled_back: u64,
    /// Transactions with a fixed snapshot that had to be rolled back.
    pub conflicts: u64,
    pub prepared: u64,
    /// Statements with a transition inside another one.
    pub nested: u64,
}

impl Written {
    pub fn add(&mut self, other: Written) {
        self.acknowledged.extend(other.acknowledged);
        self.complaints.extend(other.complaints);
        let (counts, others) = (&mut self.counts, other.counts);
        counts.unanswered += others.unanswered;
        counts.rolled_back += others.rolled_back;
        counts.conflicts += others.conflicts;
        counts.prepared += others.prepared;
        counts.nested += others.nested;
    }
}

/// Running writers, each in its own thread.
#[derive(Debug)]
pub struct Writers {
    done: Arc<AtomicBool>,
    transitions: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<Written>>>,
}

/// The number of writers and their speed.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub writers: u64,
    /// Transitions per second of all writers together.
    pub rate: u32,
}

impl Writers {
    /// Starts writers on a database with the extension. `url` may have several hosts.
    pub fn start(url: &str, seed: u64, load: Load) -> Result<Writers> {
        let (done, transitions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut session = Session::new(url, "chaos setup")?;
        create_triggers(session.client()?)?;
        let shared: Arc<[Uuid]> = create_tasks(session.client()?, 20).into();
        let prepares = "SELECT current_setting('max_prepared_transactions')::integer > 0";
        let prepares = session.client()?.query_one(prepares, &[])?.get(0);
        let pace = Duration::from_secs(load.writers) / load.rate;
        let start = |number: u64| {
            let dag = create_run(session.client()?).0;
            let writer = Writer::new(url, number, seed, dag, shared.clone())?.preparing(prepares);
            let (done, transitions) = (done.clone(), transitions.clone());
            Ok(std::thread::spawn(move || write(writer, pace, &done, &transitions)))
        };
        let threads = (0..load.writers).map(start).collect::<Result<_>>()?;
        Ok(Writers { done, transitions, threads })
    }

    /// The number of transitions so far.
    pub fn transitions(&self) -> u64 {
        self.transitions.load(Ordering::Relaxed)
    }

    /// Ends the writers after they have found out the outcome of unanswered statements. All servers must run.
    pub fn finish(self) -> Result<Written> {
        self.done.store(true, Ordering::Release);
        let mut all = Written::default();
        for thread in self.threads {
            all.add(thread.join().ok().context("a writer panicked")??);
        }
        Ok(all)
    }
}

fn write(mut writer: Writer, pace: Duration, done: &AtomicBool, transitions: &AtomicU64) -> Result<Written> {
    let mut due = Instant::now();
    while !done.load(Ordering::Acquire) {
        let made = writer.step()?;
        transitions.fetch_add(u64::from(made), Ordering::Relaxed);
        // Writers do not catch up after an outage: the load stays constant.
        due = (due + pace * made.max(1)).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    writer.finish()
}
