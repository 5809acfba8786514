//! `cargo xtask chaos`: faults of every kind while writers write and workers claim, and nothing may be lost.

use std::hash::{BuildHasher, RandomState};

use anyhow::Result;

use crate::build;
use crate::command::run_as_step;
use crate::setup;

/// How long, and what.
#[derive(clap::Args)]
pub struct Options {
    /// From which all faults follow; without it any
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults are injected
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Transitions a second, of all writers together
    #[arg(long, default_value_t = 700)]
    rate: u32,
    /// Other databases of the cluster
    #[arg(long, default_value_t = 40)]
    databases: usize,
    /// Sessions that are idle in a transaction
    #[arg(long, default_value_t = 100)]
    idle: usize,
    /// Only faults whose name contains TEXT
    #[arg(long, default_value = "")]
    only: String,
    /// Keep the servers' logs, even if nothing was found
    #[arg(long)]
    keep_logs: bool,
    /// Lose events in the database itself, by promotions and restores: each reader continues exactly, or is told
    #[arg(long)]
    lossy: bool,
}

/// Sets up, builds, installs, and runs the binary `chaos` of the tests. Its table goes to standard output.
pub fn run_chaos(options: &Options) -> Result<()> {
    let toolchain = setup::ensure()?;
    setup::ensure_pooler()?;
    setup::ensure_clock()?;
    // Short, to be typed again.
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(()) % 1_000_000);
    let mut chaos = build::test_program(toolchain, "chaos")?;
    let (seconds, rate) = (options.seconds.to_string(), options.rate.to_string());
    chaos.args(["--seed", &seed.to_string(), "--seconds", &seconds, "--rate", &rate]);
    chaos.args(["--databases", &options.databases.to_string(), "--idle", &options.idle.to_string()]);
    chaos.args(["--only", &options.only]);
    chaos.args(options.keep_logs.then_some("--keep-logs"));
    chaos.args(options.lossy.then_some("--lossy"));
    run_as_step(&mut chaos)
}
