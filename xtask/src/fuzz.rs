//! `cargo xtask fuzz`: the direct path does the same as SQL statements.

use std::hash::{BuildHasher, RandomState};

use anyhow::Result;

use crate::build;
use crate::command::run_as_step;
use crate::setup;

/// How long, and which statements.
#[derive(clap::Args)]
pub struct Options {
    /// Seed of the first sequence, as a difference names it; without it any
    #[arg(long)]
    seed: Option<u64>,
    /// How long statements are sent
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Sets up, builds, installs, and runs the binary `fuzz` of the tests. Its result goes to standard output.
pub fn run_fuzz(options: &Options) -> Result<()> {
    let toolchain = setup::ensure()?;
    // Short, to be typed again.
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(()) % 1_000_000);
    let mut fuzz = build::test_program(toolchain, "fuzz")?;
    fuzz.args(["--seed", &seed.to_string(), "--seconds", &options.seconds.to_string()]);
    run_as_step(&mut fuzz)
}
