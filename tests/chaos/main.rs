//! `cargo xtask chaos` runs this. Exit code 1: an event was lost, duplicated or out of order, a task ran twice, or a check failed.

use clap::Parser;
use pg_workflow_tests::chaos::cluster::Crowd;
use pg_workflow_tests::chaos::lossy;
use pg_workflow_tests::chaos::run::{Options, run};
use pg_workflow_tests::chaos::writers::Load;
use std::process::ExitCode;
use std::time::Duration;

/// Injects faults while writers write and workers claim tasks, and checks that no event is lost and that no task runs twice.
#[derive(Parser)]
struct Arguments {
    /// Seed of all faults
    #[arg(long)]
    seed: u64,
    /// Time of the faults, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Transitions per second of all writers together
    #[arg(long, default_value_t = 700, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Other databases of the cluster
    #[arg(long, default_value_t = 40)]
    databases: usize,
    /// Sessions that are idle in a transaction
    #[arg(long, default_value_t = 100)]
    idle: usize,
    /// Only faults whose name in the table contains TEXT
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Keep the servers' logs even if nothing is wrong
    #[arg(long)]
    keep_logs: bool,
    /// The database itself loses events, and each reader must continue exactly or be told
    #[arg(long)]
    lossy: bool,
}

fn main() -> ExitCode {
    let Arguments { seed, seconds, rate, databases, idle, only, keep_logs, lossy } = Arguments::parse();
    let load = Load { writers: 8, rate };
    let crowd = Crowd { databases, idle };
    let options = Options { seed, time: Duration::from_secs(seconds), load, crowd, only, keep_logs };
    let is_clean = match lossy {
        true => lossy::run::run(&options).map(|outcome| outcome.report.is_clean()),
        false => run(&options).map(|outcome| outcome.report.is_clean()),
    };
    match is_clean {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: seed {seed}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
