//! Installs a queue's package below `target/`, and lets its program write the scripts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::known::{Package, Peer};
use crate::command::{output, step, which};
use crate::workspace;

/// The SQL of a queue.
pub struct Scripts {
    pub schema: PathBuf,
    /// For pgbench: creates a job.
    pub create: PathBuf,
    /// For pgbench: a job's life, with its creation.
    pub life: PathBuf,
}

/// The file that names the package once it is installed.
const INSTALLED: &str = "installed.txt";

/// Installs the package if it is not installed, and writes its scripts.
pub fn prepare(peer: &Peer) -> Result<Scripts> {
    let spec = peer.package.spec();
    // pgbench takes an @ in the name of a script for a weight.
    let home = folder()?.join(spec.replace(['@', '='], "-"));
    let installed = home.join(INSTALLED);
    if !installed.exists() {
        step(&format!("Installing {spec} into target/"), || install(&peer.package, &home))?;
        fs::write(&installed, spec)?;
    }
    let mut program = match peer.package {
        Package::Npm(_) => Command::new("node"),
        Package::PyPi(_) => Command::new("python3"),
    };
    program.arg(workspace::root().join("xtask/bench/peers").join(peer.program)).current_dir(&home);
    output(&mut program)?;
    let [schema, create, life] = ["schema.sql", "create.sql", "life.sql"].map(|name| home.join(name));
    Ok(Scripts { schema, create, life })
}

fn folder() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("peers"))
}

fn install(package: &Package, home: &Path) -> Result<()> {
    fs::create_dir_all(home)?;
    let mut client = match package {
        Package::Npm(spec) => npm(spec, home)?,
        Package::PyPi(spec) => pip(spec, home)?,
    };
    output(&mut client).map(drop)
}

fn npm(spec: &str, home: &Path) -> Result<Command> {
    if which("node").is_none() || which("npm").is_none() {
        bail!("node or npm is not installed");
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(home).arg(spec);
    Ok(npm)
}

/// Only the SQL of a package is read, so it is installed without its dependencies, and for any Python.
fn pip(spec: &str, home: &Path) -> Result<Command> {
    let environment = folder()?.join("python");
    if !environment.join("bin/pip").exists() {
        output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))
            .context("no Python with venv")?;
    }
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]);
    pip.args(["--only-binary=:all:", "--ignore-requires-python", "--target"]).arg(home.join("packages")).arg(spec);
    Ok(pip)
}
