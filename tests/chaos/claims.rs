//! Workers that claim tasks and end them by their claims, while they also move, cancel, pause and delete tasks; and the check
//! that only the words of holders count, and that every task ends.
//!
//! The workers need nothing but a URL, so they run in both kinds of chaos, and without faults.

pub mod checker;
pub mod drain;
pub mod evidence;
mod operator;
pub mod table;
mod worker;

use anyhow::{Context, Result};
use postgres::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use uuid::Uuid;

use self::evidence::{Evidence, Record};
use self::worker::Worker;
use super::session::Session;

/// The queues: one has slots. The name of a task begins with the name of its queue.
pub const OPEN: &str = "open";
pub const LIMITED: &str = "limited";
/// The attempts that each task has, unless it is moved by hand.
pub const MAX_TRIES: i32 = 3;
/// The slots at the end of a run.
const UNLIMITED: i32 = i32::MAX;

/// Everything that exists before the workers start.
#[derive(Debug)]
pub struct Ground {
    /// The workers' DAGs, so that the history tells which events are theirs.
    dags: Vec<Uuid>,
    /// A run with a task for each change of the slots, so that the history has its place among the claims.
    slots: Uuid,
}

/// The workers of a run.
#[derive(Debug, Clone, Copy)]
pub struct Crew {
    pub workers: u64,
    /// The time between two steps of a worker.
    pub pause: Duration,
    /// One of so many workers sets `synchronous_commit = off`; 0: none does.
    pub asynchronous: u64,
    /// Whether they delete runs and tasks.
    pub deletes: bool,
}

/// Running workers, each in its own thread.
#[derive(Debug)]
pub struct Claims {
    ground: Arc<Ground>,
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Record>>>,
}

impl Claims {
    /// Starts workers on a database with the extension. `url` may have several hosts.
    pub fn start(url: &str, seed: u64, crew: Crew) -> Result<Claims> {
        let ground = Arc::new(Ground::create(Session::new(url, "chaos setup")?.client()?)?);
        let done = Arc::new(AtomicBool::new(false));
        let start = |number: u64| {
            let worker = Worker::new(url, number, seed, crew, ground.clone())?;
            let done = done.clone();
            Ok(std::thread::spawn(move || work(worker, crew.pause, &done)))
        };
        let threads = (0..crew.workers).map(start).collect::<Result<_>>()?;
        Ok(Claims { ground, done, threads })
    }

    /// Stops the workers, ends all tasks, and collects the evidence. All servers must run.
    pub fn finish(self, url: &str) -> Result<Evidence> {
        self.done.store(true, Ordering::Release);
        let join = |thread: JoinHandle<Result<Record>>| thread.join().ok().context("a worker panicked")?;
        let records = self.threads.into_iter().map(join).collect::<Result<_>>()?;
        let mut session = Session::new(url, "chaos drain")?;
        drain::drain(&self.ground, session.client()?)?;
        Evidence::gather(session.client()?, &self.ground.dags, records)
    }
}

fn work(mut worker: Worker, pause: Duration, done: &AtomicBool) -> Result<Record> {
    while !done.load(Ordering::Acquire) {
        worker.step()?;
        std::thread::sleep(pause);
    }
    Ok(worker.record)
}

impl Ground {
    fn create(client: &mut Client) -> Result<Ground> {
        let mut create_dag = || client.query_one("SELECT workflow.create_dag(gen_random_uuid()::text)", &[]);
        let dags: Vec<Uuid> = (0..4).map(|_| Ok(create_dag()?.get(0))).collect::<Result<_>>()?;
        let slots = client.query_one("SELECT workflow.create_dag_run($1)", &[&dags[0]])?.get(0);
        let ground = Ground { dags, slots };
        client.execute("SELECT workflow.set_queue($1)", &[&OPEN])?;
        ground.set_slots(client, 3)?;
        Ok(ground)
    }

    /// Sets the slots of the limited queue. The history has a task of this name between the claims before and after, because
    /// both set_queue() and a claim lock the queue.
    fn set_slots(&self, client: &mut Client, slots: i32) -> Result<()> {
        let mut transaction = client.transaction()?;
        transaction.execute("SELECT workflow.set_queue($1, slots => $2)", &[&LIMITED, &slots])?;
        let name = format!("slots {slots} {}", Uuid::new_v4());
        transaction.execute("SELECT workflow.create_task_instances($1, ARRAY[$2])", &[&self.slots, &name])?;
        Ok(transaction.commit()?)
    }
}
