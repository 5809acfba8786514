//! Programs and packages from PyPI, which only some tests need. Without them everything else still runs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{Missing, ensure_optional};
use crate::{command, workspace};

/// Packages from PyPI in a Python environment of their own, in `target/`.
pub struct Environment {
    /// The program of it that the tests run.
    program: &'static str,
    /// With their versions.
    packages: &'static [&'static str],
    /// Names another program than the one installed here.
    variable: &'static str,
    /// The tests that are skipped without it.
    purpose: &'static str,
}

/// Schemathesis, which sends every request that the description of the HTTP API allows, and many that it does not.
pub const FUZZER: Environment = Environment {
    program: "schemathesis",
    packages: &["schemathesis==4.32.5"],
    variable: "SCHEMATHESIS_BIN",
    purpose: "the fuzzing of the HTTP API",
};

/// pgspot, which finds SQL of an extension through which other users can run theirs.
pub const SQL_LINTER: Environment = Environment {
    program: "pgspot",
    packages: &["pgspot==0.9.4"],
    variable: "PGSPOT_BIN",
    purpose: "the search for holes in the SQL",
};

/// Python with the packages that the documents' examples import.
pub const CLIENTS: Environment = Environment {
    program: "python",
    packages: &[
        "asyncpg==0.32.0",
        "django==5.2.19",
        "httpx==0.28.1",
        "psycopg[binary]==3.3.9",
        "redis==8.1.0",
        "requests==2.34.2",
        "sqlalchemy==2.1.9",
    ],
    variable: "PYTHON",
    purpose: "the documents' examples in Python",
};

impl Environment {
    /// The program that the variable names, else the one that [`ensure`](Self::ensure) installed.
    pub fn find(&self) -> Option<PathBuf> {
        if let Some(named) = std::env::var_os(self.variable) {
            return Some(named.into());
        }
        let home = self.home().ok()?;
        let installed = fs::read_to_string(home.join(INSTALLED)).ok()?;
        (installed == self.packages.join("\n")).then(|| home.join("bin").join(self.program))
    }

    fn home(&self) -> Result<PathBuf> {
        Ok(workspace::target_dir()?.join("pypi").join(self.program))
    }

    /// Installs the packages, and first Python's venv if it is missing: on Debian, as root. Elsewhere it prints what to
    /// install, and does no more.
    pub fn ensure(&self) -> Result<()> {
        if self.find().is_some() || !ensure_optional(Missing::Python, self.purpose, has_venv)? {
            return Ok(());
        }
        let packages = self.packages.join(" ");
        command::step(&format!("Installing {packages} into target/"), || {
            let home = self.home()?;
            command::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
            let pip = Command::new(home.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
                .args(self.packages)
                .status();
            if pip.is_ok_and(|status| status.success()) {
                fs::write(home.join(INSTALLED), self.packages.join("\n"))?;
            } else {
                eprintln!("{} will be skipped: pip cannot install {packages}", self.purpose);
            }
            Ok(())
        })
    }
}

/// The file that lists the packages of an environment once they are all installed.
const INSTALLED: &str = "installed.txt";

fn has_venv() -> bool {
    let python = Command::new("python3").args(["-c", "import venv, ensurepip"]).output();
    python.is_ok_and(|output| output.status.success())
}
