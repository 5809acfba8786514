//! `cargo xtask test`: every test, against real servers.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::command::{run, run_as_step, step};
use crate::setup;
use crate::setup::Debian;

/// The tests of functions that have two ways to write rows.
const BY_STATEMENTS: [&str; 21] = [
    "extension::acting::",
    "extension::attack::",
    "extension::bounds::",
    "extension::counts::",
    "extension::creation::",
    "extension::deletions::",
    "extension::dependencies::",
    "extension::errors::",
    "extension::guard::",
    "extension::history::",
    "extension::nested::",
    "extension::parents::",
    "extension::races::",
    "extension::roles::",
    "extension::tenants::",
    "extension::transition::",
    "extension::transition_many::",
    "extension::triggers::",
    "extension::undone::",
    "feed::events::",
    "feed::plans::kept",
];

/// Sets up, builds, installs, and runs `cargo test` with these arguments: on the PostgreSQL that is installed, or
/// on this major version in a Debian of its own.
pub fn run_tests(major: Option<u32>, args: &[String]) -> Result<()> {
    match major {
        Some(major) if setup::postgres_major()? != Some(major) => {
            let mut test = Debian::with_postgres(major)?.xtask_test(args)?;
            step(&format!("Running cargo xtask test with PostgreSQL {major}"), || run(&mut test))
        }
        _ => run_tests_here(args),
    }
}

fn run_tests_here(args: &[String]) -> Result<()> {
    let toolchain = setup::ensure()?;
    setup::ensure_browser()?;
    setup::ensure_pooler()?;
    setup::ensure_clock()?;
    setup::pypi::FUZZER.ensure()?;
    setup::pypi::SQL_LINTER.ensure()?;
    setup::pypi::CLIENTS.ensure()?;
    setup::npm::ensure()?;
    // The documents' examples of HTTP call it.
    setup::ensure_program("curl", "curl")?;
    let artifacts = build::build_and_install(toolchain, Profile::Quick)?;
    // `cargo test` builds them too, but not if its arguments select a test.
    step("Building the examples", || {
        run(build::cargo("build", &toolchain.postgres, Profile::Quick)?.arg("--examples"))
    })?;
    let mut test = build::cargo("test", &toolchain.postgres, Profile::Quick)?;
    test.args(args);
    // The tests' servers are these, wherever PATH may lead.
    test.env("PG_CONFIG", &toolchain.postgres.pg_config).env("WORKFLOW_SERVER_BIN", &artifacts.server);
    run_as_step(&mut test)?;
    if args.is_empty() {
        // All functions then run SQL statements, as they do in every unusual situation.
        test.args(["--test", "workflow", "--"]).args(BY_STATEMENTS).env("WORKFLOW_PATH", "statement");
        run_as_step(&mut test)?;
    }
    Ok(())
}
