//! A folder that holds files as they will be installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// The root of the files to install; paths in it are relative to `/`.
pub struct Tree {
    root: PathBuf,
    /// The programs and libraries in it.
    binaries: Vec<PathBuf>,
}

impl Tree {
    /// An empty one.
    pub fn new(root: &Path) -> Result<Tree> {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Tree { root: root.to_owned(), binaries: Vec::new() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a file in it that `place` names.
    pub fn path(&self, place: &str) -> PathBuf {
        self.root.join(place)
    }

    /// Adds a file that others may read.
    pub fn add(&self, place: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.add_with_mode(place, content, 0o644)
    }

    /// Adds a file. It does not depend on the umask, nor do the folders above it.
    pub fn add_with_mode(&self, place: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let file = self.make_way(place)?;
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(mode))?)
    }

    /// Adds a program or a library, without its symbols for debuggers.
    pub fn add_binary(&mut self, place: &str, built: &Path, mode: u32) -> Result<()> {
        let file = self.make_way(place)?;
        command::output(Command::new("strip").arg("--strip-unneeded").arg("-o").args([&file, built]))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        self.binaries.push(file);
        Ok(())
    }

    /// Makes the folders above a file, and returns its path.
    fn make_way(&self, place: &str) -> Result<PathBuf> {
        let file = self.path(place);
        for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root)) {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        Ok(file)
    }

    /// The packages of the shared libraries that its binaries need, with the oldest versions that have all the symbols
    /// used, in Debian's format: `libc6 (>= 2.34), libgcc-s1 (>= 4.2)`.
    pub fn libraries(&self) -> Result<String> {
        // It insists on a source package.
        let debian = self.root.with_extension("source").join("debian");
        fs::create_dir_all(&debian)?;
        fs::write(debian.join("control"), "Source: pg-workflow\n\nPackage: pg-workflow\nArchitecture: any\n")?;
        let mut shlibdeps = Command::new("dpkg-shlibdeps");
        // The extension's symbols of PostgreSQL are in no library: the server itself has them.
        shlibdeps.args(["-O", "--warnings=0"]).args(&self.binaries).current_dir(self.root.with_extension("source"));
        let found = command::output(&mut shlibdeps)?;
        let depends = found.strip_prefix("shlibs:Depends=");
        depends.map(str::to_owned).with_context(|| format!("dpkg-shlibdeps says {found:?}"))
    }
}
