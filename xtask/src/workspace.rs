//! The paths of the repository and its build results.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::command;

/// The repository's root.
pub fn root() -> &'static Path {
    // This crate is one folder below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lives in the repository")
}

/// Cargo, at the repository's root.
pub fn cargo(subcommand: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(subcommand).current_dir(root());
    // `cargo run` has set these for us. Build scripts that look at them (ring's) would run again, and all that depends
    // on them be compiled again, each time after a cargo that was not started from here.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Cargo's target directory, whichever way it was configured.
pub fn target_dir() -> Result<&'static Path> {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    if let Some(dir) = DIR.get() {
        return Ok(dir);
    }
    let metadata = command::output(cargo("metadata").args(["--no-deps", "--format-version=1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let dir = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(DIR.get_or_init(|| PathBuf::from(dir)))
}
