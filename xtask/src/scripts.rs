//! The extension's files in `SHAREDIR/extension`: assembled from `sql/`, or frozen at a release.
//!
//! - `sql/*.sql` is the schema; joined in the order of names it is the install script.
//! - `sql/updates/A--B.sql` leads from version A to B. It names the functions to take from B; see `update`.
//! - `sql/releases/` holds the scripts of released versions as they were released; see [`release`].

pub mod release;
mod split;
mod update;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The first statements of each update script.
const UPDATE_START: &str = concat!(include_str!("scripts/update_check.sql"), include_str!("scripts/update_locks.sql"));

/// All files of the extension but the library, by file name.
pub fn extension_files() -> Result<Vec<(String, String)>> {
    let mut files = vec![("pg_workflow.control".to_owned(), control()?)];
    for path in sql_files(&releases())? {
        files.push((name_of(&path), read(&path)?));
    }
    let version = default_version()?;
    let install = install_script()?;
    match files.iter().find(|(name, _)| *name == install_name(&version)) {
        Some((_, released)) if *released != install => {
            bail!("version {version} is released, and sql/ differs from it: raise the version to change sql/");
        }
        Some(_) => {}
        None => files.push((install_name(&version), install)),
    }
    for (name, content) in updates()? {
        if files.iter().any(|(other, _)| *other == name) {
            bail!("{name} is released: remove its draft from sql/updates");
        }
        files.push((name, content));
    }
    Ok(files)
}

/// The install script: the files of `sql/` in the order of their names.
pub fn install_script() -> Result<String> {
    // psql would run the script outside CREATE EXTENSION.
    let mut script = String::from("\\echo Use \"CREATE EXTENSION pg_workflow\" to load this file. \\quit\n");
    for file in sql_files(&workspace::root().join("sql"))? {
        script += &read(&file)?;
        script.push('\n');
    }
    Ok(script)
}

/// The expanded scripts of `sql/updates`, by file name.
fn updates() -> Result<Vec<(String, String)>> {
    let mut expanded = Vec::new();
    for path in drafts()? {
        let versions = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (_, to) = versions.split_once("--").with_context(|| format!("{} is not named A--B.sql", path.display()))?;
        let target =
            if to == default_version()? { install_script()? } else { read(&releases().join(install_name(to)))? };
        let body = UPDATE_START.to_owned()
            + &update::expand(&read(&path)?, &target).with_context(|| format!("cannot expand {}", path.display()))?;
        let header = format!("\\echo Use \"ALTER EXTENSION pg_workflow UPDATE TO '{to}'\" to load this file. \\quit\n");
        expanded.push((format!("pg_workflow--{versions}.sql"), header + &body));
    }
    Ok(expanded)
}

/// Fails if a script that is not released has a backslash in a plain literal.
pub fn check_backslashes() -> Result<()> {
    for path in sql_files(&workspace::root().join("sql"))?.into_iter().chain(drafts()?) {
        let lines = split::lines_with_plain_backslash(&read(&path)?)?;
        if !lines.is_empty() {
            bail!(
                "{}: backslash in a plain literal at lines {lines:?}: use E'…', or a class like [:space:]",
                path.display()
            );
        }
    }
    Ok(())
}

/// The update scripts that are not released: none right after a release.
fn drafts() -> Result<Vec<PathBuf>> {
    let folder = workspace::root().join("sql/updates");
    if folder.exists() { sql_files(&folder) } else { Ok(Vec::new()) }
}

fn releases() -> PathBuf {
    workspace::root().join("sql/releases")
}

fn install_name(version: &str) -> String {
    format!("pg_workflow--{version}.sql")
}

/// The `.sql` files of a folder, in the order of their names.
fn sql_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    Ok(files)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn control() -> Result<String> {
    read(&workspace::root().join("extension/pg_workflow.control"))
}

/// The version that CREATE EXTENSION installs: `default_version = '0.1.0'` → 0.1.0
fn default_version() -> Result<String> {
    let control = control()?;
    let mut settings = control.lines().filter_map(|line| line.split_once('='));
    let version = settings.find(|(name, _)| name.trim() == "default_version").map(|(_, value)| value.trim());
    Ok(version.context("the control file has no default_version")?.trim_matches('\'').to_owned())
}
