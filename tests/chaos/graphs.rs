//! Runs whose tasks depend on each other, which several sessions create and work off at once; and the check that what becomes of
//! each task is what the pure function says, that no task starts too early, and that each run ends itself.
//!
//! As the workers of [`super::claims`], they need nothing but a URL.

pub mod checker;
pub mod drain;
pub mod evidence;
mod inspector;
pub mod plan;
pub mod table;
mod ways;
mod worker;

use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use uuid::Uuid;

use self::evidence::{Evidence, Record};
use self::worker::Worker;
use super::session::Session;

/// The queue of tasks that succeed or fail. Others are skipped by hand.
pub const QUEUE: &str = "graphs";

/// The sessions of a run.
#[derive(Debug, Clone, Copy)]
pub struct Crew {
    pub workers: u64,
    /// The time between two steps of a worker.
    pub pause: Duration,
}

/// Running sessions, each in its own thread.
#[derive(Debug)]
pub struct Graphs {
    dag: Uuid,
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Record>>>,
}

impl Graphs {
    /// Starts workers on a database with the extension. `url` may have several hosts.
    pub fn start(url: &str, seed: u64, crew: Crew) -> Result<Graphs> {
        let mut session = Session::new(url, "chaos setup")?;
        let client = session.client()?;
        client.execute("SELECT workflow.set_queue($1)", &[&QUEUE])?;
        let dag = client.query_one("SELECT workflow.create_dag(gen_random_uuid()::text)", &[])?.get(0);
        let prepares = "SELECT current_setting('max_prepared_transactions')::integer > 0";
        let prepares: bool = client.query_one(prepares, &[])?.get(0);
        let done = Arc::new(AtomicBool::new(false));
        let start = |number: u64| {
            let worker = Worker::new(url, number, seed, dag, prepares)?;
            let done = done.clone();
            Ok(std::thread::spawn(move || work(worker, crew.pause, &done)))
        };
        let mut threads: Vec<_> = (0..crew.workers).map(start).collect::<Result<_>>()?;
        let (url, told) = (url.to_owned(), done.clone());
        threads.push(std::thread::spawn(move || inspector::inspect(&url, &told)));
        Ok(Graphs { dag, done, threads })
    }

    /// Stops the workers, ends all tasks, and collects the evidence. All servers must run.
    pub fn finish(self, url: &str) -> Result<Evidence> {
        self.done.store(true, Ordering::Release);
        let join = |thread: JoinHandle<Result<Record>>| thread.join().ok().context("a worker of graphs panicked")?;
        let records = self.threads.into_iter().map(join).collect::<Result<_>>()?;
        let mut session = Session::new(url, "chaos drain")?;
        drain::drain(self.dag, session.client()?)?;
        Evidence::gather(session.client()?, self.dag, records)
    }
}

fn work(mut worker: Worker, pause: Duration, done: &AtomicBool) -> Result<Record> {
    while !done.load(Ordering::Acquire) {
        worker.step()?;
        std::thread::sleep(pause);
    }
    Ok(worker.record)
}
