//! The tarball, for systems without Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::contents::{COMPLETIONS, SERVICE, SETTINGS, add_documents, library_folder, script_folder};
use super::deb::VERSION;
use super::tree::Tree;
use crate::{command, workspace};

/// Packs the contents of both trees, and returns the file.
pub fn build(work: &Path, folder: &Path, major: u32, [extension, server]: [&Tree; 2], date: u64) -> Result<PathBuf> {
    let (system, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let name = format!("pg_workflow-{VERSION}-pg{major}-{system}-{arch}");
    let tree = Tree::new(&work.join("tarball").join(&name))?;
    let library = extension.path(&library_folder(major)).join("pg_workflow.so");
    tree.add("lib/pg_workflow.so", fs::read(library)?)?;
    for entry in fs::read_dir(extension.path(&script_folder(major)))? {
        let entry = entry?;
        tree.add(&format!("extension/{}", entry.file_name().to_string_lossy()), fs::read(entry.path())?)?;
    }
    tree.add_with_mode("bin/workflow-server", fs::read(server.path("usr/bin/workflow-server"))?, 0o755)?;
    for (shell, place) in COMPLETIONS {
        tree.add(&format!("completions/workflow-server.{shell}"), fs::read(server.path(place))?)?;
    }
    tree.add("systemd/workflow-server.service", SERVICE)?;
    tree.add("systemd/workflow-server.default", SETTINGS)?;
    tree.add("LICENSE", fs::read(workspace::root().join("LICENSE"))?)?;
    add_documents(&tree, ".")?;
    tree.add("INSTALL.md", note(major, arch, &server.libraries()?))?;
    let file = folder.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    // gzip would note the time, too.
    tar.args([&format!("--mtime=@{date}"), "--use-compress-program=gzip -9n", "-cf"]).arg(&file);
    command::output(tar.arg("-C").arg(work.join("tarball")).arg(name))?;
    Ok(file)
}

fn note(major: u32, arch: &str, libraries: &str) -> String {
    let values =
        [("@VERSION@", VERSION), ("@MAJOR@", &major.to_string()), ("@ARCH@", arch), ("@LIBRARIES@", libraries)];
    values.iter().fold(include_str!("INSTALL.md").to_owned(), |note, (name, value)| note.replace(name, value))
}
