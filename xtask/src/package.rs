//! `cargo xtask package`: Debian packages and a tarball, the same bytes from the same binaries.

mod contents;
mod deb;
mod install_test;
mod tarball;
mod tree;

pub use install_test::clean_system;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::command::{self, step};
use crate::{setup, workspace};
use deb::Deb;
use tree::Tree;

/// What to make.
#[derive(clap::Args)]
pub struct Options {
    /// Then install the packages in a clean Debian, use and remove them there (as root on Debian)
    #[arg(long)]
    test: bool,
}

/// Builds, and leaves the packages in `target/package`.
pub fn run(options: &Options) -> Result<()> {
    for program in ["dpkg-shlibdeps", "dpkg-deb"] {
        setup::ensure_program(program, "dpkg-dev")?;
    }
    let postgres = &setup::ensure()?.postgres;
    let artifacts = step("Building the extension and workflow-server", || build::build(postgres, Profile::Release))?;
    let folder = workspace::target_dir()?.join("package");
    let made = step("Packing", || pack(postgres.major, &artifacts, &folder))?;
    for file in &made {
        println!("{}  ({:.1} MB)", file.display(), fs::metadata(file)?.len() as f64 / 1e6);
    }
    println!("{}", folder.join("SHA256SUMS").display());
    if options.test {
        let again = workspace::target_dir()?.join("package-again");
        step("Packing once more, to compare", || {
            pack(postgres.major, &artifacts, &again)?;
            same(&folder.join("SHA256SUMS"), &again.join("SHA256SUMS"))
        })?;
        fs::remove_dir_all(again)?;
        install_test::run(&folder, postgres.major)?;
    }
    Ok(())
}

/// Makes everything again in this folder, and returns the files to publish.
fn pack(major: u32, artifacts: &build::Artifacts, folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let work = folder.join("work");
    let date = source_date()?;
    let extension = contents::extension(Tree::new(&work.join("extension"))?, major, artifacts)?;
    let server = contents::server(Tree::new(&work.join("server"))?, artifacts)?;
    let debs = [
        Deb {
            name: format!("postgresql-{major}-pg-workflow"),
            section: "database",
            depends: vec![format!("postgresql-{major}"), extension.libraries()?],
            description: contents::EXTENSION_DESCRIPTION,
            scripts: &[],
            tree: &extension,
        },
        Deb {
            name: "pg-workflow-server".to_owned(),
            section: "database",
            depends: vec![server.libraries()?],
            description: contents::SERVER_DESCRIPTION,
            scripts: &contents::SERVER_SCRIPTS,
            tree: &server,
        },
    ];
    let mut made = debs.iter().map(|deb| deb.build(folder, date)).collect::<Result<Vec<_>>>()?;
    made.push(tarball::build(&work, folder, major, [&extension, &server], date)?);
    fs::remove_dir_all(work)?;
    let names = made.iter().filter_map(|file| file.file_name());
    let sums = command::output(Command::new("sha256sum").args(names).current_dir(folder))?;
    fs::write(folder.join("SHA256SUMS"), sums + "\n")?;
    Ok(made)
}

/// The modification time of files in the packages, in seconds of Unix: SOURCE_DATE_EPOCH, or the time of the commit.
fn source_date() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(given) => given,
        Err(_) => {
            let mut git = Command::new("git");
            git.args(["log", "-1", "--format=%ct"]).current_dir(workspace::root());
            command::output(&mut git).context("outside git, SOURCE_DATE_EPOCH must say which date files bear")?
        }
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds"))
}

fn same(one: &Path, other: &Path) -> Result<()> {
    let (one, other) = (fs::read_to_string(one)?, fs::read_to_string(other)?);
    if one != other {
        bail!("the same binaries were packed differently:\n{one}{other}");
    }
    Ok(())
}
