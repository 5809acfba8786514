//! `cargo xtask test`: every test, against real servers.

use anyhow::Result;

use crate::command::{run, shown, step};
use crate::{build, setup};

/// Sets up, builds, installs, and runs `cargo test` with these arguments.
pub fn run_tests(args: &[String]) -> Result<()> {
    let toolchain = setup::ensure()?;
    setup::ensure_browser()?;
    setup::pypi::FUZZER.ensure()?;
    setup::pypi::SQL_LINTER.ensure()?;
    let artefacts = build::build_and_install(toolchain)?;
    // `cargo test` would build them too, but not where it is told which test to run.
    step("Building the examples", || run(build::cargo("build", &toolchain.postgres)?.arg("--examples")))?;
    let mut test = build::cargo("test", &toolchain.postgres)?;
    test.args(args);
    // The tests' servers are these, wherever PATH may lead.
    test.env("PG_CONFIG", &toolchain.postgres.pg_config).env("WORKFLOW_SERVER_BIN", &artefacts.server);
    step(&shown(&test), || run(&mut test))
}
