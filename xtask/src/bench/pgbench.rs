//! Runs of pgbench.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Bench, script};
use crate::command::output;

/// A run of pgbench.
pub struct Pgbench {
    pub database: &'static str,
    pub user: &'static str,
    pub script: PathBuf,
    pub clients: u32,
    pub length: Length,
    /// `:k` before the first transaction; scripts add 1 in each.
    pub k: u32,
    /// `prepared`, or `extended`: each statement is parsed and planned each time.
    pub protocol: &'static str,
    /// Transactions a second, rather than as many as it can.
    pub rate: Option<u32>,
    /// How often a transaction is tried that met another one in a deadlock.
    pub tries: u32,
}

pub enum Length {
    Seconds(u32),
    /// Transactions of each client.
    Transactions(u32),
}

impl Pgbench {
    /// Runs a script of `xtask/bench` as fast as it can, in the database `bench`.
    pub fn of(name: &str, clients: u32, seconds: u32) -> Pgbench {
        Pgbench {
            database: "bench",
            user: "postgres",
            script: script(name),
            clients,
            length: Length::Seconds(seconds),
            k: 0,
            protocol: "prepared",
            rate: None,
            tries: 1,
        }
    }

    /// Transactions of the script per second, with this value of `pg_workflow.announce`.
    pub fn run(&self, bench: &Bench, announce: &str) -> Result<f64> {
        self.run_with(bench, &format!("-c pg_workflow.announce={announce}"))
    }

    /// The same, with the `pg_workflow.announce` of the database.
    pub fn run_as_configured(&self, bench: &Bench) -> Result<f64> {
        self.run_with(bench, "")
    }

    fn run_with(&self, bench: &Bench, settings: &str) -> Result<f64> {
        let mut pgbench = Command::new(bench.cluster.install().program("pgbench"));
        pgbench.env("PGOPTIONS", settings);
        // Over the Unix socket: the network's own cost would hide part of the difference.
        let (socket, port) = (bench.cluster.socket_dir(), bench.cluster.port().to_string());
        pgbench.arg("-h").arg(socket).args(["-U", self.user, "-p", &port]);
        pgbench.args(["-n", "-M", self.protocol, "-j", "2", "-c", &self.clients.to_string()]);
        pgbench.args(["-D", &format!("k={}", self.k)]);
        pgbench.arg(format!("--max-tries={}", self.tries));
        if let Some(rate) = self.rate {
            pgbench.args(["-R", &rate.to_string()]);
        }
        match self.length {
            Length::Seconds(seconds) => pgbench.args(["-T", &seconds.to_string()]),
            Length::Transactions(count) => pgbench.args(["-t", &count.to_string()]),
        };
        pgbench.arg("-f").arg(&self.script).arg(self.database);
        let printed = output(&mut pgbench)?;
        throughput(&printed).with_context(|| format!("{}:\n{printed}", self.script.display()))
    }
}

/// The transactions per second that pgbench printed, if none failed.
fn throughput(printed: &str) -> Result<f64> {
    let mut lines = printed.lines();
    let failed = lines.clone().find_map(|line| line.strip_prefix("number of failed transactions: "));
    if failed.is_some_and(|failed| !failed.starts_with("0 ")) {
        bail!("pgbench counted failed transactions");
    }
    let tps = lines.find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.context("pgbench printed no figure")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_is_read_unless_transactions_failed() {
        let printed = "number of transactions actually processed: 7\nnumber of failed transactions: 0 (0.000%)\n\
                       tps = 1234.500000 (without initial connection time)";
        assert_eq!(throughput(printed).unwrap(), 1234.5);
        assert!(throughput(&printed.replace(": 0 (0", ": 2 (28")).is_err());
        assert!(throughput("connection failed").is_err());
    }
}
