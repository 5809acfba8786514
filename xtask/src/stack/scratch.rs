//! Folders for servers' data, that do not outlive their owner for long.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result};

use super::user;
use crate::workspace;

/// The beginning of every name: it marks our folders in a shared temporary directory.
const PREFIX: &str = "pgw-";

/// A folder that is removed when it is dropped.
///
/// Its lock tells whether it is in use. The system releases a lock when the last process that has it open has ended,
/// however it ended. So a folder whose lock is free is abandoned, and the next start removes it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    lock: File,
}

impl Scratch {
    /// A new folder below the target directory.
    pub fn new(name: &str) -> Result<Self> {
        Self::new_in(&base()?, name)
    }

    /// A new folder whose path is short, as the path of a Unix socket must be (107 bytes).
    pub fn short() -> Result<Self> {
        Self::new_in(Path::new("/tmp"), "s")
    }

    fn new_in(base: &Path, name: &str) -> Result<Self> {
        sweep(base);
        let path = make(base, name)?;
        // Lock it before it is visible: without a lock it looks abandoned.
        let lock = File::create(path.join("lock.new"))?;
        lock.lock()?;
        fs::rename(path.join("lock.new"), path.join("lock"))?;
        Ok(Self { path, lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lock, for a child process to hold too: as long as that runs, the folder is in use.
    pub fn lock(&self) -> &File {
        &self.lock
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A new folder that stays until it is removed explicitly: without a lock it is never swept.
pub fn lasting(name: &str) -> Result<PathBuf> {
    make(&base()?, name)
}

/// Makes a folder that belongs to PostgreSQL's user and that others can look into (the data directory in it is private).
fn make(base: &Path, name: &str) -> Result<PathBuf> {
    let dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{name}-")).tempdir_in(base);
    let dir = dir.with_context(|| format!("cannot make a folder in {}", base.display()))?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    user::give(dir.path(), user::for_postgres()?.as_ref())?;
    Ok(dir.keep())
}

/// The parent of the folders: the target directory, unless PostgreSQL's user cannot reach it (for example a clone in
/// /root).
fn base() -> Result<PathBuf> {
    let stack = workspace::target_dir()?.join("stack");
    fs::create_dir_all(&stack).with_context(|| format!("cannot make {}", stack.display()))?;
    let user = user::for_postgres()?;
    if user::can_reach(&stack, user.as_ref()) {
        return Ok(stack);
    }
    static SAID: Once = Once::new();
    let temporary = std::env::temp_dir();
    SAID.call_once(|| {
        let (stack, temporary) = (stack.display(), temporary.display());
        eprintln!("  the user postgres cannot get to {stack}: the servers' data is in {temporary}");
    });
    Ok(temporary)
}

/// Removes the folders whose owners are gone.
fn sweep(base: &Path) {
    let mine = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let lock = entry.path().join("lock");
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX) && owner_of(&lock) == Some(mine);
        if is_ours && File::open(&lock).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn owner_of(file: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    // Not following links: in a shared directory they may be anybody's.
    file.symlink_metadata().ok().map(|meta| meta.uid())
}
