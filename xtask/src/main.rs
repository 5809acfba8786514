//! `cargo xtask …`: every command does all of its own set-up.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, builds, runs and tests pg_workflow")]
enum Command {
    /// Replay a real workflow through everything, and show that no event is lost
    Demo(xtask::demo::Options),
    /// Start a private PostgreSQL (with the extension), Redis and workflow-server for development
    Up,
    /// Print the variables that lead to what `up` started, for: eval "$(cargo xtask env)"
    Env,
    /// Stop what `up` started and remove its data
    Down,
    /// Check formatting, clippy, documentation and licences
    Lint,
    /// Build and install the extension, then run every test against real servers
    Test {
        /// On this major version of PostgreSQL, 14 to 18. Where this machine has another one, in a Debian that has it: a
        /// folder below target/, made on the first run
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(14..=18))]
        pg: Option<u32>,
        /// Passed on to `cargo test`, for example: -- --test relay some_name
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Break everything while writers write, and compare what was promised with what is there
    Chaos(xtask::chaos::Options),
    /// Make Debian packages and a tarball of the extension and the server
    Package(xtask::package::Options),
    /// Freeze the SQL scripts of this version in sql/releases
    Release,
    /// Build the container images and run a workflow through docker/compose.yaml
    ComposeTest,
    /// Measure the extension against the same work by hand, and print the ratios
    Bench(xtask::bench::Options),
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not as `main` itself would print it: with RUST_BACKTRACE set, that buries the message.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(options) => xtask::demo::run(&options),
        Command::Up => xtask::dev::up(),
        Command::Env => xtask::dev::env(),
        Command::Down => xtask::dev::down(),
        Command::Chaos(options) => xtask::chaos::run_chaos(&options),
        Command::Package(options) => xtask::package::run(&options),
        Command::Release => xtask::scripts::release::run(),
        Command::ComposeTest => xtask::compose_test::run(),
        Command::Bench(options) => xtask::bench::run(&options),
        Command::Lint => xtask::lint::run_all(),
        Command::Test { pg, args } => xtask::test::run_tests(pg, &args),
    }
}
