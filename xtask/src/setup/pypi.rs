//! Programs from PyPI, which only some tests need. Without one everything else still runs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{Missing, ensure_optional};
use crate::{command, workspace};

/// One of them.
pub struct Tool {
    name: &'static str,
    version: &'static str,
    /// Names another one than that which is installed here.
    variable: &'static str,
    /// What is skipped without it.
    purpose: &'static str,
}

/// Schemathesis, which asks the HTTP API all that its description allows and much that it does not.
pub const FUZZER: Tool = Tool {
    name: "schemathesis",
    version: "4.32.5",
    variable: "SCHEMATHESIS_BIN",
    purpose: "the fuzzing of the HTTP API",
};

/// pgspot, which knows how an extension's SQL lets others have it run theirs.
pub const SQL_LINTER: Tool =
    Tool { name: "pgspot", version: "0.9.4", variable: "PGSPOT_BIN", purpose: "the search for holes in the SQL" };

impl Tool {
    /// The one that the variable names, else the one that [`ensure`](Self::ensure) has installed.
    pub fn find(&self) -> Option<PathBuf> {
        if let Some(named) = std::env::var_os(self.variable) {
            return Some(named.into());
        }
        Some(self.home().ok()?.join("bin").join(self.name)).filter(|program| program.exists())
    }

    fn home(&self) -> Result<PathBuf> {
        Ok(workspace::target_dir()?.join(format!("{}-{}", self.name, self.version)))
    }

    /// Installs it into `target/`, and Python's venv first where that is missing: on Debian, as root. Elsewhere it says
    /// what to install, and that is all.
    pub fn ensure(&self) -> Result<()> {
        if self.find().is_some() {
            return Ok(());
        }
        let Tool { name, version, purpose, .. } = self;
        if !ensure_optional(Missing::Python, purpose, has_venv)? {
            return Ok(());
        }
        command::step(&format!("Installing {name} {version} into target/"), || {
            let home = self.home()?;
            command::run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
            let pip = Command::new(home.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
                .arg(format!("{name}=={version}"))
                .status();
            if !pip.is_ok_and(|status| status.success()) {
                std::fs::remove_dir_all(&home)?;
                eprintln!("{purpose} will be skipped: PyPI does not give {name} {version}");
            }
            Ok(())
        })
    }
}

fn has_venv() -> bool {
    let python = Command::new("python3").args(["-c", "import venv, ensurepip"]).output();
    python.is_ok_and(|output| output.status.success())
}
