//! `cargo xtask lint`: checks of the sources without running them.

mod features;
mod words;

use anyhow::Result;

use crate::build::{self, Profile};
use crate::command::{run, step, which};
use crate::{circles, scripts, setup, workspace};

/// Every check; the first that fails ends it.
pub fn run_all() -> Result<()> {
    step("Checking the formatting", || run(workspace::cargo("fmt").args(["--all", "--check"])))?;
    step("Looking for import circles among modules", circles::check)?;
    step("Looking for banned words", words::check)?;
    step("Looking for backslashes in SQL literals", scripts::check_backslashes)?;
    let postgres = &setup::ensure()?.postgres;
    step("Comparing the features that demo and tests select", || features::check(postgres))?;
    step(&format!("Clippy, for PostgreSQL {}", postgres.major), || {
        run(build::cargo("clippy", postgres, Profile::Quick)?.args(["--all-targets", "--", "--deny", "warnings"]))
    })?;
    step("Checking the documentation", || {
        // The extension's interface is SQL; its Rust documentation is read in the source.
        let mut doc = workspace::cargo("doc");
        doc.args(["--profile", Profile::Quick.name(), "--no-deps", "--workspace", "--exclude", "pg_workflow"]);
        run(doc.env("RUSTDOCFLAGS", "--deny warnings"))
    })?;
    if which("cargo-deny").is_none() {
        eprintln!("» Licenses and sources: skipped: cargo-deny is not installed");
        return Ok(());
    }
    step("Checking licenses and sources", || {
        // Advisories would need the network.
        run(workspace::cargo("deny").args(["--offline", "check", "licenses", "bans", "sources"]))
    })
}
