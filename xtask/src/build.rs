//! Building the extension and the server, and installing the extension into PostgreSQL's folders.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{PostgresInstall, Toolchain};
use crate::{command, scripts, workspace};

/// The results of a build.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// The extension's library, as cargo named it.
    pub library: PathBuf,
    /// The binary `workflow-server`.
    pub server: PathBuf,
}

/// How the compiler optimizes; the profiles are in Cargo.toml.
#[derive(Debug, Clone, Copy)]
pub enum Profile {
    /// Compiles in the shortest time: the demo, `up` and the tests.
    Quick,
    /// Runs in the shortest time: packages and benchmarks.
    Release,
}

impl Profile {
    /// Its name in Cargo.toml, and of its folder in the target directory.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Quick => "quick",
            Profile::Release => "release",
        }
    }

    /// The folder of its artifacts.
    pub fn dir(self) -> Result<PathBuf> {
        Ok(workspace::target_dir()?.join(self.name()))
    }
}

/// Builds the extension and the server, and installs the extension: the first step of each command that runs them.
pub fn build_and_install(toolchain: &Toolchain, profile: Profile) -> Result<Artifacts> {
    let postgres = &toolchain.postgres;
    let artifacts = command::step(
        &format!(
            "Building the extension for PostgreSQL {} and workflow-server{}",
            postgres.major,
            first_time(profile)?
        ),
        || build(postgres, profile),
    )?;
    command::step(&format!("Installing the extension into {}", postgres.pkglibdir.display()), || {
        install(postgres, &artifacts.library)
    })?;
    Ok(artifacts)
}

/// Builds and installs everything, and returns a binary of the tests, to be run with the servers that were built.
pub fn test_program(toolchain: &Toolchain, name: &str) -> Result<Command> {
    let artifacts = build_and_install(toolchain, Profile::Quick)?;
    command::step(&format!("Building {name}"), || {
        command::run(cargo("build", &toolchain.postgres, Profile::Quick)?.args(["--bin", name]))
    })?;
    let mut program = Command::new(Profile::Quick.dir()?.join(name));
    program.env("PG_CONFIG", &toolchain.postgres.pg_config).env("WORKFLOW_SERVER_BIN", &artifacts.server);
    Ok(program)
}

/// Tells how long a build takes that has nothing to begin with.
fn first_time(profile: Profile) -> Result<&'static str> {
    let is_built = profile.dir()?.join("workflow-server").exists();
    Ok(if is_built { "" } else { " (the first time: 280 crates, some 3 minutes on 2 cores)" })
}

/// Builds cargo's default members, which are all but the tests: the demo needs no more.
pub fn build(postgres: &PostgresInstall, profile: Profile) -> Result<Artifacts> {
    command::run(&mut cargo_for("build", postgres, profile)?)?;
    let library = format!("{}pg_workflow{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let folder = profile.dir()?;
    Ok(Artifacts { library: folder.join(library), server: folder.join("workflow-server") })
}

/// Cargo on the whole workspace, told which PostgreSQL to build against.
pub fn cargo(subcommand: &str, postgres: &PostgresInstall, profile: Profile) -> Result<Command> {
    let mut cargo = cargo_for(subcommand, postgres, profile)?;
    cargo.arg("--workspace");
    Ok(cargo)
}

fn cargo_for(subcommand: &str, postgres: &PostgresInstall, profile: Profile) -> Result<Command> {
    let mut cargo = workspace::cargo(subcommand);
    cargo.args(["--profile", profile.name(), "--features", &postgres.feature()]);
    cargo.env("PGRX_PG_CONFIG_PATH", &postgres.pg_config);
    if rust_minor()? < 96 {
        // pgrx declares Rust 1.96, and builds and runs with 1.95.
        cargo.arg("--ignore-rust-version");
    }
    Ok(cargo)
}

/// 95 for Rust 1.95.
fn rust_minor() -> Result<u32> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = command::output(Command::new(rustc).arg("--version").current_dir(workspace::root()))?;
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    minor.with_context(|| format!("cannot read the version of Rust: {version:?}"))
}

/// Puts the library, the control file and the scripts into the server's folders.
pub fn install(postgres: &PostgresInstall, library: &Path) -> Result<()> {
    let folder = postgres.sharedir.join("extension");
    let content = fs::read(library).with_context(|| format!("cannot read {}", library.display()))?;
    put(&postgres.pkglibdir.join(library_name(postgres)), &content)?;
    for (name, content) in scripts::extension_files()? {
        put(&folder.join(name), content.as_bytes())?;
    }
    Ok(())
}

/// The file name that the server looks for, with the suffix that its loader appends.
pub fn library_name(postgres: &PostgresInstall) -> String {
    format!("pg_workflow{}", module_suffix(postgres))
}

/// The suffix that PostgreSQL's loader appends to a library's name: on macOS it changed with version 16.
fn module_suffix(postgres: &PostgresInstall) -> &'static str {
    if postgres.major < 16 { ".so" } else { std::env::consts::DLL_SUFFIX }
}

/// Replaces a file in one step: running servers keep the old library, which they have mapped.
fn put(path: &Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let write = || -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().context("no parent folder")?)?;
        file.write_all(content)?;
        let mode = if path.extension().is_some_and(|extension| extension == "so") { 0o755 } else { 0o644 };
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| {
        format!("cannot write {} (run as root, or let PG_CONFIG name a PostgreSQL that you own)", path.display())
    })
}

/// The server's binary: the one that WORKFLOW_SERVER_BIN names, else the one that [`build`] makes for the tests.
pub fn server_binary() -> Result<PathBuf> {
    match std::env::var_os("WORKFLOW_SERVER_BIN") {
        Some(named) => Ok(named.into()),
        None => Ok(Profile::Quick.dir()?.join("workflow-server")),
    }
}
