//! A primary and its synchronous standby, which switch roles.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use xtask::stack::clock::Clock;
use xtask::stack::postgres::{FAST, PRELOADED, Postgres};

use super::link::Link;
use super::neighbors;
use super::proxy::Proxy;

/// The database of the run.
pub const DATABASE: &str = "workflow";

const SETTINGS: &[(&str, &str)] = &[
    PRELOADED,
    ("max_prepared_transactions", "20"),
    // The checker excuses a listener who was not connected at the commit.
    ("track_commit_timestamp", "on"),
    // The standby catches up after any outage.
    ("wal_keep_size", "512MB"),
    ("log_connections", "on"),
    ("log_disconnections", "on"),
    ("log_line_prefix", "%m [%p] %a "),
];

/// What else the cluster has beside the run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Crowd {
    /// Other databases.
    pub databases: usize,
    /// Sessions that are idle in a transaction.
    pub idle: usize,
}

/// Two servers. Each has a fixed index in the links; another server can replace the one at an index.
#[derive(Debug)]
pub struct Cluster {
    nodes: Mutex<Nodes>,
    /// Leads to the primary.
    pub to_primary: Proxy,
    /// The clock of both servers, if it can be set.
    pub clock: Option<Clock>,
    logs: PathBuf,
}

/// The servers, and the index of the primary.
#[derive(Debug)]
struct Nodes {
    primary: usize,
    running: [Option<Postgres>; 2],
}

impl Nodes {
    fn primary(&self) -> Result<&Postgres> {
        self.running[self.primary].as_ref().context("there is no primary")
    }
}

impl Cluster {
    /// Starts a primary with the extension, and a standby.
    pub fn start(logs: &Path, crowd: Crowd) -> Result<Cluster> {
        let (connections, workers) = ((crowd.idle + 100).to_string(), (crowd.databases + 20).to_string());
        let sizes = [("max_connections", connections.as_str()), ("max_worker_processes", workers.as_str())];
        let (settings, clock) = ([FAST, SETTINGS, &sizes].concat(), Clock::start()?);
        let primary = match &clock {
            Some(clock) => Postgres::start_by_clock("chaos", &settings, clock)?,
            None => Postgres::start("chaos", &settings)?,
        };
        primary.create_database(DATABASE)?;
        // The relay's consumer starts at the beginning of the history.
        primary.psql(DATABASE, "CREATE EXTENSION pg_workflow; SELECT workflow.fold_state_counts(); SELECT workflow.create_consumer('relay', true);")?;
        neighbors::create(&primary, crowd.databases)?;
        let standby = primary.standby("chaos")?;
        primary.wait_for_standby()?;
        let to_primary = Proxy::start(primary.port())?;
        let nodes = Nodes { primary: 0, running: [Some(primary), Some(standby)] };
        Ok(Cluster { nodes: Mutex::new(nodes), to_primary, clock, logs: logs.to_owned() })
    }

    /// Runs `work` on the primary, which is not replaced meanwhile.
    pub fn with_primary<T>(&self, work: impl FnOnce(&Postgres) -> Result<T>) -> Result<T> {
        work(self.nodes().primary()?)
    }

    /// The ports of both servers.
    pub fn ports(&self) -> Result<[u16; 2]> {
        let nodes = self.nodes();
        let port = |index: usize| anyhow::Ok(nodes.running[index].as_ref().context("a server is missing")?.port());
        Ok([port(0)?, port(1)?])
    }

    /// Kills the primary, promotes the standby, and builds a new standby from it.
    pub fn promote(&self, links: &[&Link]) -> Result<()> {
        let mut nodes = self.nodes();
        // After a crash, the standby may lag and must not be promoted yet.
        nodes.primary()?.wait_for_standby()?;
        nodes.primary()?.kill()?;
        let lost = nodes.primary;
        nodes.primary = 1 - lost;
        nodes.primary()?.promote()?;
        self.to_primary.retarget(nodes.primary()?.port());
        if let Some(old) = nodes.running[lost].take() {
            self.keep_log(&old)?;
        }
        let standby = nodes.primary()?.standby("chaos")?;
        links.iter().for_each(|link| link.postgres[lost].retarget(standby.port()));
        nodes.running[lost] = Some(standby);
        nodes.primary()?.wait_for_standby()
    }

    /// Kills the standby, and restarts it after this time. Meanwhile, no commit completes.
    pub fn restart_standby(&self, down: Duration) -> Result<()> {
        let nodes = self.nodes();
        let standby = nodes.running[1 - nodes.primary].as_ref().context("there is no standby")?;
        standby.kill()?;
        std::thread::sleep(down);
        standby.start_again()?;
        nodes.primary()?.wait_for_standby()
    }

    /// Copies the servers' logs to the log folder of the run.
    pub fn keep_logs(&self) -> Result<()> {
        self.nodes().running.iter().flatten().try_for_each(|node| self.keep_log(node))
    }

    fn keep_log(&self, node: &Postgres) -> Result<()> {
        let kept = self.logs.join(format!("postgres-{}.log", node.port()));
        std::fs::copy(node.log(), &kept).with_context(|| format!("cannot write {}", kept.display()))?;
        Ok(())
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap()
    }
}
