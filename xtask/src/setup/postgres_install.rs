//! An installed PostgreSQL, as its pg_config describes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{self, which};

/// The major versions that the extension can be built for.
const SUPPORTED: std::ops::RangeInclusive<u32> = 15..=18;

/// Folders with servers of several versions: Debian, PGDG's RPMs, Homebrew on either processor.
const PLACES: [&str; 4] = [
    "/usr/lib/postgresql/*/bin/pg_config",
    "/usr/pgsql-*/bin/pg_config",
    "/opt/homebrew/opt/postgresql@*/bin/pg_config",
    "/usr/local/opt/postgresql@*/bin/pg_config",
];

/// A PostgreSQL that can be built against and run.
#[derive(Debug, Clone)]
pub struct PostgresInstall {
    pub pg_config: PathBuf,
    pub major: u32,
    pub bindir: PathBuf,
    pub pkglibdir: PathBuf,
    pub sharedir: PathBuf,
}

impl PostgresInstall {
    /// Finds the one that PG_CONFIG names, otherwise the one in PATH, otherwise the newest in the usual folders.
    pub fn find() -> Result<Option<Self>> {
        if let Some(named) = std::env::var_os("PG_CONFIG") {
            // Never silently use another PostgreSQL than the named one.
            let named = Self::read(Path::new(&named)).context("PG_CONFIG")?;
            return Ok(Some(named));
        }
        let mut candidates: Vec<PathBuf> =
            PLACES.iter().flat_map(|place| glob::glob(place).unwrap().flatten()).collect();
        candidates.sort_by_key(|path| std::cmp::Reverse(version_in(path)));
        candidates.splice(0..0, which("pg_config"));
        Ok(candidates.iter().find_map(|pg_config| Self::read(pg_config).ok()))
    }

    /// Asks pg_config, and makes sure that the server and its headers are really there: Debian and others
    /// ship pg_config also with the client library.
    pub fn read(pg_config: &Path) -> Result<Self> {
        let this = Self::ask(pg_config)?;
        let headers = PathBuf::from(ask(pg_config, "includedir-server")?);
        let programs = ["initdb", "postgres", "psql"].map(|name| this.program(name));
        for needed in [&[headers.join("postgres.h")], &programs[..]].concat() {
            if !needed.exists() {
                bail!("{} has no {}", pg_config.display(), needed.display());
            }
        }
        Ok(this)
    }

    fn ask(pg_config: &Path) -> Result<Self> {
        let version = ask(pg_config, "version")?;
        let major = major_of(&version)
            .with_context(|| format!("{} does not tell PostgreSQL's version", pg_config.display()))?;
        if !SUPPORTED.contains(&major) {
            bail!("{} is {version}; supported are {SUPPORTED:?}", pg_config.display());
        }
        let folder = |what| ask(pg_config, what).map(PathBuf::from);
        let (bindir, pkglibdir, sharedir) = (folder("bindir")?, folder("pkglibdir")?, folder("sharedir")?);
        Ok(Self { pg_config: pg_config.to_owned(), major, bindir, pkglibdir, sharedir })
    }

    /// The newest of the older versions whose server is there too, with its headers or without.
    pub fn older(&self) -> Option<Self> {
        let mut found: Vec<Self> = PLACES
            .iter()
            .flat_map(|place| glob::glob(place).expect("a valid pattern").flatten())
            .filter_map(|pg_config| Self::ask(&pg_config).ok())
            .filter(|install| install.major < self.major && install.program("postgres").exists())
            .collect();
        found.sort_by_key(|install| install.major);
        found.pop()
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// The cargo feature that builds the extension for it.
    pub fn feature(&self) -> String {
        format!("pg_workflow/pg{}", self.major)
    }
}

fn ask(pg_config: &Path, what: &str) -> Result<String> {
    command::output(Command::new(pg_config).arg(format!("--{what}")))
}

/// "PostgreSQL 15.20 (Debian …)" and "PostgreSQL 18beta1" → 15, 18.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The first number in a path: these places carry the major version in it.
fn version_in(path: &Path) -> u32 {
    let path = path.to_string_lossy();
    let digits = path.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
