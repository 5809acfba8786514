//! The commands of `cargo xtask`.

use anyhow::Result;
use clap::Parser;

/// A command line.
#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, builds, runs and tests pg_workflow")]
pub enum Command {
    /// Replay a recorded workflow through all parts, and count the events
    Demo(crate::demo::Options),
    /// Start a private PostgreSQL (with the extension), Redis and workflow-server for development
    Up,
    /// Print the variables that connect to the servers of `up`, for: eval "$(cargo xtask env)"
    Env,
    /// Stop the servers of `up` and remove their data
    Down,
    /// Check formatting, imports, words, clippy, documentation and licenses
    Lint,
    /// Write the generated parts of docs/reference
    Docs,
    /// Build and install the extension, then run every test against real servers
    Test {
        /// Major version of PostgreSQL, 15 to 18. If this machine has another one, the tests run in a Debian that has it: a
        /// folder below target/, made by the first run
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(15..=18))]
        pg: Option<u32>,
        /// Arguments for `cargo test`, for example: -- --test workflow feed::relay::
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Kill and cut off servers while writers write and workers claim, and compare all answers with the data
    Chaos(crate::chaos::Options),
    /// Send random statements as a reader and as a writer, and check that nothing is harmed
    Sqlsmith(crate::sqlsmith::Options),
    /// Play random statements by the direct path and by SQL statements, and compare all results
    Fuzz(crate::fuzz::Options),
    /// Make Debian packages and a tarball of the extension and the server
    Package(crate::package::Options),
    /// Freeze the SQL scripts of this version in sql/releases
    Release,
    /// Build the container images and run a workflow through docker/compose.yaml
    ComposeTest,
    /// Measure the extension against the same work by hand
    Bench(crate::bench::Options),
}

impl Command {
    /// Runs the command.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Demo(options) => crate::demo::run(&options),
            Self::Up => crate::dev::up(),
            Self::Env => crate::dev::env(),
            Self::Down => crate::dev::down(),
            Self::Chaos(options) => crate::chaos::run_chaos(&options),
            Self::Sqlsmith(options) => crate::sqlsmith::run_sqlsmith(&options),
            Self::Fuzz(options) => crate::fuzz::run_fuzz(&options),
            Self::Package(options) => crate::package::run(&options),
            Self::Release => crate::scripts::release::run(),
            Self::ComposeTest => crate::compose_test::run(),
            Self::Bench(options) => crate::bench::run(&options),
            Self::Docs => crate::docs::run(),
            Self::Lint => crate::lint::run_all(),
            Self::Test { pg, args } => crate::test::run_tests(pg, &args),
        }
    }
}
