//! `cargo xtask chaos` runs this. Exit code 1: something was lost, duplicated, out of order, or could not be checked.

use clap::Parser;
use pg_workflow_tests::chaos::run::{Options, run};
use pg_workflow_tests::chaos::writers::Load;
use std::process::ExitCode;
use std::time::Duration;

/// Breaks everything while writers write, and compares what was promised with what is there.
#[derive(Parser)]
struct Arguments {
    /// From which all faults follow.
    #[arg(long)]
    seed: u64,
    /// How long faults are injected.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Moves in a second, of all writers together.
    #[arg(long, default_value_t = 700, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Only faults whose name, as the table has it, contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Keep the servers' logs, also where nothing was found.
    #[arg(long)]
    keep_logs: bool,
}

fn main() -> ExitCode {
    let Arguments { seed, seconds, rate, only, keep_logs } = Arguments::parse();
    let load = Load { writers: 8, rate };
    match run(&Options { seed, time: Duration::from_secs(seconds), load, only, keep_logs }) {
        Ok(outcome) if outcome.report.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: seed {seed}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
