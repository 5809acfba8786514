//! Other databases of the cluster, more than have a notifier, and a client that writes to one after the other.

use anyhow::{Context, Result};
use postgres::NoTls;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use xtask::stack::postgres::Postgres;

use super::cluster::DATABASE;

/// The pause between two writes.
const PAUSE: Duration = Duration::from_millis(300);

/// Copies the database of the run, which no session may use.
pub fn create(primary: &Postgres, count: usize) -> Result<()> {
    let copy = |number| format!("CREATE DATABASE neighbor_{number} TEMPLATE {DATABASE} STRATEGY file_copy;\n");
    primary.psql("postgres", &(0..count).map(copy).collect::<String>())?;
    Ok(())
}

/// A running client.
#[derive(Debug)]
pub struct Neighbors {
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Neighbors {
    /// `url` is that of the run's database.
    pub fn start(url: &str, count: usize) -> Result<Neighbors> {
        let done = Arc::new(AtomicBool::new(false));
        let config: postgres::Config = url.parse()?;
        let thread = std::thread::spawn({
            let done = done.clone();
            move || {
                for number in (0..count).cycle() {
                    if done.load(Ordering::Acquire) {
                        return;
                    }
                    // An error is that of a fault. No reader has these events.
                    let _ = write(&config, number);
                    std::thread::park_timeout(PAUSE);
                }
            }
        });
        Ok(Neighbors { done, thread })
    }

    pub fn finish(self) -> Result<()> {
        self.done.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().ok().context("the neighbors' client panicked")
    }
}

fn write(config: &postgres::Config, number: usize) -> Result<()> {
    let mut config = config.clone();
    config
        .dbname(&format!("neighbor_{number}"))
        .application_name("chaos neighbor")
        .connect_timeout(Duration::from_secs(3));
    let mut client = config.connect(NoTls)?;
    // A session that listens gives the database a notifier.
    client.batch_execute("LISTEN workflow_events")?;
    client.query_one("SELECT workflow.create_dag_run(workflow.create_dag(gen_random_uuid()::text))", &[])?;
    Ok(())
}
