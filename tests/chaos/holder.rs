//! A write transaction that stays open during the whole run, and commits at its end: all its events have old ids.

use anyhow::{Context, Result};
use postgres::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::session::{Session, Verdict, verdict};
use super::writers::{Counts, Written};
use crate::create_run;

/// The pause between two transitions.
const PAUSE: Duration = Duration::from_millis(500);

/// The open transaction. If the server ends it, another one is opened.
#[derive(Debug)]
pub struct Holder {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<Held>>,
}

/// The result of the holder.
#[derive(Debug, Clone)]
pub struct Held {
    pub written: Written,
    /// The time that the last transaction was open.
    pub open: Duration,
}

impl Holder {
    pub fn start(url: &str) -> Result<Holder> {
        let mut session = Session::new(url, "chaos holder")?;
        let dag = create_run(session.client()?).0;
        let done = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let done = done.clone();
            move || hold(&mut session, dag, &done)
        });
        Ok(Holder { done, thread })
    }

    /// Commits the transaction.
    pub fn finish(self) -> Result<Held> {
        self.done.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().ok().context("the holder panicked")?
    }
}

fn hold(session: &mut Session, dag: Uuid, done: &AtomicBool) -> Result<Held> {
    let mut unanswered = 0;
    loop {
        let opened = Instant::now();
        match attempt(session.client()?, dag, done) {
            Ok(acknowledged) => {
                let counts = Counts { unanswered, ..Counts::default() };
                let written = Written { acknowledged, counts, ..Written::default() };
                return Ok(Held { written, open: opened.elapsed() });
            }
            Err(error) if verdict(&error) == Some(Verdict::Unknown) => unanswered += 1,
            Err(error) => return Err(error),
        }
        session.reset();
    }
}

fn attempt(client: &mut Client, dag: Uuid, done: &AtomicBool) -> Result<Vec<(Uuid, i64)>> {
    let mut transaction = client.transaction()?;
    let run: Uuid = transaction.query_one("SELECT workflow.create_dag_run($1)", &[&dag])?.get(0);
    let sql = "SELECT id FROM workflow.create_task_instances($1, '{one, two, three, four}')";
    let tasks: Vec<Uuid> = transaction.query(sql, &[&run])?.iter().map(|row| row.get(0)).collect();
    let mut made: Vec<(Uuid, i64)> = std::iter::once(run).chain(tasks.iter().copied()).map(|id| (id, 1)).collect();
    for task in tasks.iter().cycle() {
        let sql =
            "UPDATE workflow.task_instances SET state = CASE state WHEN 'running' THEN 'retrying' ELSE 'running' END
                   WHERE id = $1 RETURNING version";
        made.push((*task, transaction.query_one(sql, &[task])?.get(0)));
        if done.load(Ordering::Acquire) {
            break;
        }
        std::thread::park_timeout(PAUSE);
    }
    transaction.commit()?;
    Ok(made)
}
