//! Programs that the machine must have: finds them, and installs the missing ones.

mod apt;
mod browser;
mod debian;
mod libclang;
pub mod npm;
mod postgres_install;
pub mod pypi;

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::command::which;

pub use browser::{browser, ensure_browser};
pub use debian::Debian;
pub use postgres_install::PostgresInstall;

/// The programs that build and run the project.
#[derive(Debug, Clone)]
pub struct Toolchain {
    pub postgres: PostgresInstall,
    pub redis_server: PathBuf,
}

/// Something that is missing.
///
/// A C compiler is not among them: without one (and libc's headers) cargo could not have linked this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Postgres,
    Redis,
    Libclang,
    /// Only the tests of the web UI need it.
    Browser,
    /// Only packages from PyPI need it.
    Python,
    /// Only the tests of waiting need it.
    Pooler,
    /// Only the tests of clocks need it.
    Clock,
}

/// The tools of this machine, which must be installed.
pub fn toolchain() -> Result<&'static Toolchain> {
    static TOOLCHAIN: OnceLock<Toolchain> = OnceLock::new();
    if let Some(toolchain) = TOOLCHAIN.get() {
        return Ok(toolchain);
    }
    let postgres = PostgresInstall::find()?.context("no PostgreSQL 15 to 18 with server headers found");
    let redis_server = redis_server().context("redis-server is not in PATH");
    let found = Toolchain { postgres: postgres.context(HINT)?, redis_server: redis_server.context(HINT)? };
    Ok(TOOLCHAIN.get_or_init(|| found))
}

const HINT: &str = "Run `cargo xtask up`: it prints what to install, and installs it as root on Debian";

/// The tools of this machine. Installs missing ones first: on Debian, as root.
pub fn ensure() -> Result<&'static Toolchain> {
    let lacking = missing()?;
    if !lacking.is_empty() {
        if !can_install() {
            bail!("{}", instructions(&lacking));
        }
        apt::install(&lacking)?;
        let still = missing()?;
        if !still.is_empty() {
            bail!("cannot find {still:?} after their installation");
        }
    }
    toolchain()
}

/// If it is "no", programs that only some tests need are not installed.
const OPTIONAL: &str = "XTASK_OPTIONAL";

/// The major version of PostgreSQL to install. A Debian in a folder needs it: an older server is copied there too.
const POSTGRES_MAJOR: &str = "XTASK_POSTGRES_MAJOR";

/// Installs a program that only some tests need. Returns false, with a message, if it cannot: `skipped` will be skipped.
fn ensure_optional(lacking: Missing, skipped: &str, is_there: fn() -> bool) -> Result<bool> {
    if is_there() {
        return Ok(true);
    }
    if std::env::var_os(OPTIONAL).is_some_and(|value| value == "no") {
        eprintln!("{skipped} will be skipped: {OPTIONAL} is no");
        return Ok(false);
    }
    if !can_install() {
        eprintln!("{skipped} will be skipped: {}", instructions(&[lacking]));
        return Ok(false);
    }
    apt::install(&[lacking])?;
    if !is_there() {
        bail!("cannot find {lacking:?} after its installation");
    }
    Ok(true)
}

/// A program that only one command needs. Installs it from this Debian package if it is missing.
pub fn ensure_program(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(found) = which(program) {
        return Ok(found);
    }
    if !can_install() {
        bail!("{program} is not installed. Install Debian's package {package}, or run this as root");
    }
    apt::install_packages(|| Ok(vec![package.to_owned()]))?;
    which(program).with_context(|| format!("cannot find {program} after the installation of {package}"))
}

fn can_install() -> bool {
    nix::unistd::geteuid().is_root() && which("apt-get").is_some()
}

/// The major version of the installed PostgreSQL, or else of the one that will be installed.
pub fn postgres_major() -> Result<Option<u32>> {
    match PostgresInstall::find()? {
        Some(found) => Ok(Some(found.major)),
        None if can_install() => apt::postgres_major().map(Some),
        None => Ok(None),
    }
}

/// The server that REDIS_SERVER names, which can be a Valkey, else the one in PATH.
fn redis_server() -> Option<PathBuf> {
    match std::env::var_os("REDIS_SERVER") {
        Some(named) => Some(named.into()),
        None => which("redis-server"),
    }
}

/// PgBouncer, which Debian installs where only root's PATH leads.
pub fn pooler() -> Option<PathBuf> {
    which("pgbouncer").or_else(|| Some(PathBuf::from("/usr/sbin/pgbouncer")).filter(|program| program.exists()))
}

/// Installs a pooler if none is installed: on Debian, as root. Elsewhere it prints what to install.
pub fn ensure_pooler() -> Result<()> {
    ensure_optional(Missing::Pooler, "the tests through a pooler", || pooler().is_some()).map(drop)
}

/// The library by which a process has a clock of its own, where Debian installs it.
pub fn clock() -> Option<PathBuf> {
    glob::glob("/usr/lib/*/faketime/libfaketime.so.1").expect("a valid pattern").flatten().next()
}

/// Installs libfaketime if it is missing: on Debian, as root. Elsewhere it prints what to install.
pub fn ensure_clock() -> Result<()> {
    ensure_optional(Missing::Clock, "the tests of clocks", || clock().is_some()).map(drop)
}

fn missing() -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    if PostgresInstall::find()?.is_none() {
        missing.push(Missing::Postgres);
    }
    if redis_server().is_none() {
        missing.push(Missing::Redis);
    }
    if !libclang::is_installed() {
        missing.push(Missing::Libclang);
    }
    Ok(missing)
}

fn instructions(missing: &[Missing]) -> String {
    let mut text = String::from("this machine lacks some programs. Install them, or run this as root on Debian:\n");
    for lacking in missing {
        text += match lacking {
            Missing::Postgres => POSTGRES,
            Missing::Redis => REDIS,
            Missing::Libclang => LIBCLANG,
            Missing::Browser => BROWSER,
            Missing::Python => PYTHON,
            Missing::Pooler => POOLER,
            Missing::Clock => CLOCK,
        };
    }
    text
}

const POSTGRES: &str = "
  PostgreSQL 15 to 18, with its server headers (PG_CONFIG can name any pg_config)
    Debian    apt-get install postgresql postgresql-server-dev-all
    Fedora    dnf install postgresql-server postgresql-server-devel
    Arch      pacman -S postgresql
    Homebrew  brew install postgresql@18
";
const REDIS: &str = "
  redis-server
    Debian    apt-get install redis-server
    Fedora    dnf install redis
    Arch      pacman -S redis
    Homebrew  brew install redis
";
const LIBCLANG: &str = "
  libclang, with its C headers
    Debian    apt-get install libclang-dev clang
    Fedora    dnf install clang-devel
    Arch      pacman -S clang
    Homebrew  brew install llvm
";
const BROWSER: &str = "
  Chromium, for the tests of the web UI (BROWSER_BIN can name any Chrome)
    Debian    apt-get install chromium
    Fedora    dnf install chromium-headless
    Arch      pacman -S chromium
    Homebrew  brew install --cask chromium
";
const PYTHON: &str = "
  Python with venv, for the fuzzing of the HTTP API, the search for holes in the SQL and the documents' examples
  (SCHEMATHESIS_BIN, PGSPOT_BIN and PYTHON can name installed ones)
    Debian    apt-get install python3-venv
    Fedora    dnf install python3
    Arch      pacman -S python
    Homebrew  brew install python
";
const POOLER: &str = "
  PgBouncer, for the tests through a pooler
    Debian    apt-get install pgbouncer
    Fedora    dnf install pgbouncer
    Arch      pacman -S pgbouncer
    Homebrew  brew install pgbouncer
";
const CLOCK: &str = "
  libfaketime, for the tests of clocks
    Debian    apt-get install faketime
";
