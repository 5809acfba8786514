//! Runs a replay with worker processes, and kills or freezes some of them while they hold tasks.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DATABASE, PATIENCE};
use crate::stack::postgres::Postgres;

/// Worker processes of a replay.
pub const WORKERS: usize = 4;

/// What happened to the workers.
#[derive(Default)]
pub struct Faults {
    pub killed: usize,
    pub frozen: usize,
    /// Ends that workers reported of claims that they had lost.
    pub refused: usize,
}

impl Faults {
    /// Runs a replay. On its way two workers are killed, and one is frozen until others have its tasks.
    pub fn replay(&mut self, replay: &mut Command, postgres: &Postgres) -> Result<()> {
        let mut child = replay.stderr(Stdio::piped()).spawn().context("cannot start workflow-server replay")?;
        let log = BufReader::new(child.stderr.take().context("stderr is piped")?);
        let refused = std::thread::spawn(move || show(log));
        let mut workers = Workers { postgres, child: &mut child, struck: Vec::new() };
        let struck = self.strike(&mut workers);
        let status = child.wait()?;
        self.refused += refused.join().unwrap_or_default();
        struck?;
        if !status.success() {
            bail!("workflow-server replay failed: {status}");
        }
        Ok(())
    }

    fn strike(&mut self, workers: &mut Workers<'_>) -> Result<()> {
        for fifths in 1..=2 {
            let Some(worker) = workers.next(fifths)? else { return Ok(()) };
            kill(worker, Signal::SIGKILL).context("cannot kill a worker")?;
            self.killed += 1;
        }
        let Some(worker) = workers.next(3)? else { return Ok(()) };
        kill(worker, Signal::SIGSTOP).context("cannot freeze a worker")?;
        self.frozen += 1;
        let expired = workers.wait_until_without_tasks(worker);
        kill(worker, Signal::SIGCONT).context("cannot wake a worker")?;
        expired
    }
}

/// Shows the log of the replay, and counts the ends that were refused.
fn show(log: BufReader<impl std::io::Read>) -> usize {
    let mut refused = 0;
    for line in log.lines().map_while(Result::ok) {
        let is_refused = line.contains("is lost: its");
        refused += usize::from(is_refused);
        // There can be hundreds.
        if !is_refused && !line.contains("to stop: the claim is lost") && !line.contains(" INFO ") {
            eprintln!("{line}");
        }
    }
    refused
}

/// The worker processes of a running replay.
struct Workers<'a> {
    postgres: &'a Postgres,
    child: &'a mut Child,
    struck: Vec<Pid>,
}

impl Workers<'_> {
    /// Waits until so many fifths of the tasks have succeeded, and for a worker that holds tasks and was not struck. `None`
    /// if the replay has ended.
    fn next(&mut self, fifths: usize) -> Result<Option<Pid>> {
        let is_over = |child: &mut Child| Ok::<_, std::io::Error>(child.try_wait()?.is_some());
        while !is_over(self.child)? {
            let holders = self.holders(fifths)?;
            if let Some(worker) = holders.into_iter().find(|worker| !self.struck.contains(worker)) {
                self.struck.push(worker);
                return Ok(Some(worker));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(None)
    }

    fn wait_until_without_tasks(&mut self, worker: Pid) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.holders(0)?.contains(&worker) {
            if Instant::now() > deadline {
                bail!("the tasks of a frozen worker did not expire");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Returns the processes that hold tasks of a run of which so many fifths have succeeded, the one with most of them
    /// first. Their names end in their numbers.
    fn holders(&self, fifths: usize) -> Result<Vec<Pid>> {
        let sql = format!(
            "\\pset tuples_only on\n\\pset format unaligned\n
             SELECT substring(worker FROM '[0-9]+$') FROM workflow.claims AS c WHERE (
                 SELECT 5 * count(*) FILTER (WHERE state = 'success') >= {fifths} * count(*)
                 FROM workflow.task_instances AS t WHERE t.dag_run_id = c.dag_run_id
             ) GROUP BY worker ORDER BY count(*) DESC, 1;"
        );
        let printed = self.postgres.psql(DATABASE, &sql)?;
        Ok(printed.lines().filter_map(|line| line.trim().parse().ok().map(Pid::from_raw)).collect())
    }
}
