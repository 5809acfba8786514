//! Packages from npm, which only the documents' examples in JavaScript need.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command::{self, which};
use crate::workspace;

/// With their versions.
const PACKAGES: [&str; 2] = ["pg@8.23.1", "redis@6.3.1"];

/// The file that lists the packages once they are all installed.
const INSTALLED: &str = "installed.txt";

/// The folder `node_modules` with the packages, if [`ensure`] could install them.
pub fn modules() -> Option<PathBuf> {
    let home = home().ok()?;
    let installed = fs::read_to_string(home.join(INSTALLED)).ok()?;
    (installed == PACKAGES.join("\n")).then(|| home.join("node_modules"))
}

fn home() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("npm"))
}

/// Installs the packages into `target/` if node and npm are installed.
pub fn ensure() -> Result<()> {
    if modules().is_some() {
        return Ok(());
    }
    let packages = PACKAGES.join(" ");
    if which("node").is_none() || which("npm").is_none() {
        eprintln!("the documents' examples in JavaScript will be skipped: node or npm is not installed");
        return Ok(());
    }
    command::step(&format!("Installing {packages} into target/"), || {
        let home = home()?;
        fs::create_dir_all(&home)?;
        let npm = Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(&home)
            .args(PACKAGES)
            .status();
        if npm.is_ok_and(|status| status.success()) {
            fs::write(home.join(INSTALLED), PACKAGES.join("\n"))?;
        } else {
            eprintln!("the documents' examples in JavaScript will be skipped: npm cannot install {packages}");
        }
        Ok(())
    })
}
