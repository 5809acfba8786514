//! `cargo xtask sqlsmith`: random statements against the schema, and nothing may be harmed.

use std::hash::{BuildHasher, RandomState};

use anyhow::Result;

use crate::build;
use crate::command::run_as_step;
use crate::setup;

/// How long, and which statements.
#[derive(clap::Args)]
pub struct Options {
    /// From which all statements follow; without it any
    #[arg(long)]
    seed: Option<u32>,
    /// How long statements are sent
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Sets up, builds, installs, and runs the binary `sqlsmith` of the tests. Its table goes to standard output.
pub fn run_sqlsmith(options: &Options) -> Result<()> {
    let toolchain = setup::ensure()?;
    let program = setup::ensure_program("sqlsmith", "sqlsmith")?;
    // Short, to be typed again.
    let seed = options.seed.unwrap_or_else(|| (RandomState::new().hash_one(()) % 1_000_000) as u32);
    let mut sqlsmith = build::test_program(toolchain, "sqlsmith")?;
    sqlsmith.args(["--seed", &seed.to_string(), "--seconds", &options.seconds.to_string()]);
    sqlsmith.arg("--program").arg(program);
    run_as_step(&mut sqlsmith)
}
