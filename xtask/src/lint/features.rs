//! The tests select no feature of a crate that the demo does not select: else cargo would compile it twice.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::command::output;
use crate::setup::PostgresInstall;
use crate::workspace;

pub fn check(postgres: &PostgresInstall) -> Result<()> {
    let demo = crates(postgres, &["--edges", "normal,build"])?;
    let tests = crates(postgres, &["--edges", "normal,build,dev", "--workspace"])?;
    let shared: BTreeSet<&str> = demo.iter().map(|with_features| name(with_features)).collect();
    let twice = tests.difference(&demo).filter(|with_features| shared.contains(name(with_features)));
    let twice: Vec<&str> = twice.map(String::as_str).collect();
    if !twice.is_empty() {
        bail!(
            "compiled twice: {twice:#?}\nAdd these features to xtask/Cargo.toml, or leave them out of tests/Cargo.toml"
        );
    }
    Ok(())
}

/// Each crate with its version and features.
fn crates(postgres: &PostgresInstall, selection: &[&str]) -> Result<BTreeSet<String>> {
    let mut tree = workspace::cargo("tree");
    tree.args(["--prefix", "none", "--no-dedupe", "--format", "{p} features {f}", "--features", &postgres.feature()]);
    Ok(output(tree.args(selection))?.lines().map(str::to_owned).collect())
}

fn name(with_features: &str) -> &str {
    with_features.split(" features ").next().unwrap_or_default()
}
