//! A Debian package: `dpkg-deb` does the work, and sorts the files and bounds their times for us.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::contents;
use super::tree::Tree;
use crate::{command, workspace};

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The parts of a package.
pub struct Deb<'a> {
    pub name: String,
    pub section: &'a str,
    pub depends: Vec<String>,
    /// As in the control file: a line, then lines that begin with a space.
    pub description: &'a str,
    /// The scripts that run on installation and removal, by name.
    pub scripts: &'a [(&'a str, &'a str)],
    pub tree: &'a Tree,
}

impl Deb<'_> {
    /// Builds it into a folder, and returns the file.
    pub fn build(&self, folder: &Path, date: u64) -> Result<PathBuf> {
        let architecture = command::output(Command::new("dpkg").arg("--print-architecture"))?;
        let documents = format!("usr/share/doc/{}", self.name);
        contents::add_documents(self.tree, &documents)?;
        self.tree.add(&format!("{documents}/copyright"), fs::read(workspace::root().join("LICENSE"))?)?;
        let size = command::output(Command::new("du").args(["-sk", "--apparent-size"]).arg(self.tree.root()))?;
        let size = size.split_whitespace().next().unwrap_or_default();
        self.tree.add("DEBIAN/control", self.control(&architecture, size))?;
        self.tree.add("DEBIAN/md5sums", self.sums()?)?;
        if self.tree.path("etc").exists() {
            self.tree.add("DEBIAN/conffiles", self.settings()?)?;
        }
        for (name, script) in self.scripts {
            self.tree.add_with_mode(&format!("DEBIAN/{name}"), script, 0o755)?;
        }
        let file = folder.join(format!("{}_{VERSION}_{architecture}.deb", self.name));
        let mut deb = Command::new("dpkg-deb");
        deb.args(["--root-owner-group", "-Zxz", "--build"]).arg(self.tree.root()).arg(&file);
        command::output(deb.env("SOURCE_DATE_EPOCH", date.to_string()))?;
        Ok(file)
    }

    fn control(&self, architecture: &str, size: &str) -> String {
        let Deb { name, section, description, .. } = self;
        let depends = self.depends.join(", ");
        format!(
            "Package: {name}\nVersion: {VERSION}\nArchitecture: {architecture}\n\
             Maintainer: the pg_workflow developers <pg-workflow@localhost>\nInstalled-Size: {size}\n\
             Depends: {depends}\nSection: {section}\nPriority: optional\nDescription: {description}\n"
        )
    }

    /// For `dpkg --verify`.
    fn sums(&self) -> Result<String> {
        let list = "find . -type f ! -path './DEBIAN/*' -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 md5sum";
        Ok(command::output(Command::new("sh").args(["-c", list]).current_dir(self.tree.root()))? + "\n")
    }

    /// The files that an administrator edits and an upgrade does not overwrite.
    fn settings(&self) -> Result<String> {
        let list = "find etc -type f -printf '/%p\\n' | LC_ALL=C sort";
        Ok(command::output(Command::new("sh").args(["-c", list]).current_dir(self.tree.root()))? + "\n")
    }
}
