//! Writers: programs that move entities in every way there is, and remember what they were told had been done.

use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::session::Session;
use super::writer::Writer;
use crate::{create_run, create_tasks};

/// What writers were told.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Moves and creations that have been made, as entity and version.
    pub acknowledged: Vec<(Uuid, i64)>,
    /// Answers that they should never get.
    pub complaints: Vec<String>,
    /// Statements and commits without an answer.
    pub unanswered: u64,
    /// Transactions that they rolled back themselves.
    pub rolled_back: u64,
}

impl Written {
    pub fn add(&mut self, other: Written) {
        self.acknowledged.extend(other.acknowledged);
        self.complaints.extend(other.complaints);
        self.unanswered += other.unanswered;
        self.rolled_back += other.rolled_back;
    }
}

/// Writers at work, each in a thread of its own.
#[derive(Debug)]
pub struct Writers {
    done: Arc<AtomicBool>,
    moves: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<Written>>>,
}

/// How many, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub writers: u64,
    /// Moves in a second, of all together.
    pub rate: u32,
}

impl Writers {
    /// Starts them on a database with the extension. `url` may name several hosts.
    pub fn start(url: &str, seed: u64, load: Load) -> Result<Writers> {
        let (done, moves) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut session = Session::new(url, "chaos setup")?;
        let shared: Arc<[Uuid]> = create_tasks(session.client()?, 20).into();
        let pace = Duration::from_secs(load.writers) / load.rate;
        let start = |number: u64| {
            let dag = create_run(session.client()?).0;
            let writer = Writer::new(url, number, seed, dag, shared.clone())?;
            let (done, moves) = (done.clone(), moves.clone());
            Ok(std::thread::spawn(move || write(writer, pace, &done, &moves)))
        };
        let threads = (0..load.writers).map(start).collect::<Result<_>>()?;
        Ok(Writers { done, moves, threads })
    }

    /// Moves made so far.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Lets them finish what they are doing, and find out what became of what was not answered. Everything must run.
    pub fn finish(self) -> Result<Written> {
        self.done.store(true, Ordering::Release);
        let mut all = Written::default();
        for thread in self.threads {
            all.add(thread.join().ok().context("a writer has panicked")??);
        }
        Ok(all)
    }
}

fn write(mut writer: Writer, pace: Duration, done: &AtomicBool, moves: &AtomicU64) -> Result<Written> {
    let mut due = Instant::now();
    while !done.load(Ordering::Acquire) {
        let made = writer.step()?;
        moves.fetch_add(u64::from(made), Ordering::Relaxed);
        // What an outage held up is not made up for: the load should stay what it is.
        due = (due + pace * made.max(1)).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    writer.finish()
}
