//! `cargo xtask release`: freezes the scripts of the current version.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result};

use super::{default_version, drafts, install_name, install_script, name_of, releases, sql_files, updates};
use crate::command;

/// The SHA-256 of every released script, in the format of sha256sum.
const SUMS: &str = "SHA256SUMS";

/// Writes the install script and the expanded update scripts to `sql/releases`, and removes the drafts of the latter.
///
/// # Errors
/// A script that was released is never overwritten.
pub fn run() -> Result<()> {
    let version = default_version()?;
    let mut scripts = vec![(install_name(&version), install_script()?)];
    scripts.extend(updates()?);
    for (name, content) in &scripts {
        let path = releases().join(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = file.with_context(|| format!("cannot release {}", path.display()))?;
        file.write_all(content.as_bytes())?;
        println!("{}", path.display());
    }
    for draft in drafts()? {
        fs::remove_file(&draft)?;
    }
    write_sums()
}

fn write_sums() -> Result<()> {
    let names = sql_files(&releases())?.iter().map(|path| name_of(path)).collect::<Vec<_>>();
    let sums = command::output(Command::new("sha256sum").args(names).current_dir(releases()))?;
    fs::write(releases().join(SUMS), sums + "\n").with_context(|| format!("cannot write {SUMS}"))
}
