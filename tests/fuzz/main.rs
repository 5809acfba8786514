//! `cargo xtask fuzz` runs this: random statements in two databases, of which one writes by the direct path. Exit code 1: they
//! differ.

use clap::Parser;
use pg_workflow_tests::fuzz::pair::Stage;
use pg_workflow_tests::fuzz::run::run;
use std::process::ExitCode;
use std::time::Duration;

/// Plays random statements in two databases, and compares them.
#[derive(Parser)]
struct Arguments {
    /// Seed of the first sequence; each sequence has the next one
    #[arg(long)]
    seed: u64,
    /// Time of the statements
    #[arg(long)]
    seconds: u64,
}

fn main() -> ExitCode {
    let Arguments { seed, seconds } = Arguments::parse();
    match run(&Stage::start("fuzz"), seed, Duration::from_secs(seconds)) {
        Ok(played) => {
            println!("{} sequences with {} steps from seed {seed}: no difference", played.sequences, played.steps);
            for (side, [updates, inserts]) in ["direct", "statement"].iter().zip(played.calls) {
                println!("{side:9}  {updates:8} calls of triggers of UPDATE  {inserts:8} of INSERT");
            }
            ExitCode::SUCCESS
        }
        Err(report) => {
            println!("{report}");
            ExitCode::FAILURE
        }
    }
}
