//! Schemathesis, which asks the HTTP API all that its description allows and much that it does not. Without it everything
//! else still runs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{Missing, ensure_optional};
use crate::{command, workspace};

const VERSION: &str = "4.32.5";

/// The one that SCHEMATHESIS_BIN names, else the one that [`ensure_fuzzer`] has installed.
pub fn fuzzer() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SCHEMATHESIS_BIN") {
        return Some(named.into());
    }
    Some(home().ok()?.join("bin/schemathesis")).filter(|program| program.exists())
}

fn home() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join(format!("schemathesis-{VERSION}")))
}

/// Installs it from PyPI into `target/`, and Python's venv first where that is missing: on Debian, as root. Elsewhere it says
/// what to install, and that is all.
pub fn ensure_fuzzer() -> Result<()> {
    if fuzzer().is_some() {
        return Ok(());
    }
    if !ensure_optional(Missing::Python, "the fuzzing of the HTTP API", has_venv)? {
        return Ok(());
    }
    command::step(&format!("Installing schemathesis {VERSION} into target/"), || {
        let home = home()?;
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        let pip = Command::new(home.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
            .arg(format!("schemathesis=={VERSION}"))
            .status();
        if !pip.is_ok_and(|status| status.success()) {
            std::fs::remove_dir_all(&home)?;
            eprintln!("the fuzzing of the HTTP API will be skipped: PyPI does not give schemathesis {VERSION}");
        }
        Ok(())
    })
}

fn has_venv() -> bool {
    let python = Command::new("python3").args(["-c", "import venv, ensurepip"]).output();
    python.is_ok_and(|output| output.status.success())
}
