//! The user that PostgreSQL runs as.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::{Uid, User};

/// PostgreSQL refuses to run as root; then it runs as the user that its package has created.
/// None: this process is an ordinary user already.
pub fn for_postgres() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")?;
    Ok(Some(user.context("PostgreSQL refuses to run as root, and there is no user postgres to run it")?))
}

/// A command that is run by that user.
pub fn command(program: impl AsRef<std::ffi::OsStr>, user: Option<&User>) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = user {
        // This also drops root's supplementary groups.
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).env("HOME", &user.dir);
    }
    command
}

/// Makes a folder that user's own.
pub fn give(dir: &Path, user: Option<&User>) -> Result<()> {
    if let Some(user) = user {
        std::os::unix::fs::chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    Ok(())
}

/// Whether that user can reach the files in a folder. Asking the system instead of reading modes covers access lists
/// too.
pub fn can_reach(dir: &Path, user: Option<&User>) -> bool {
    let status = command("sh", user).args(["-c", "cd \"$0\" 2>/dev/null"]).arg(dir).status();
    status.is_ok_and(|status| status.success())
}
