//! Installing the packages in a clean Debian, using them there, and removing them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{self, step};
use crate::stack::{port, scratch::Scratch};
use crate::{setup, workspace};

/// Runs `install-test.sh` in namespaces of its own: whichever way it ends, its mounts and processes end with it.
pub fn run(packages: &Path, major: u32) -> Result<()> {
    let Some(system) = clean_system()? else {
        return Ok(());
    };
    let downloads = workspace::target_dir()?.join("clean/downloads");
    fs::create_dir_all(downloads.join("partial"))?;
    let scratch = Scratch::new("install")?;
    let log = workspace::target_dir()?.join("install-test.log");
    let file = fs::File::create(&log)?;
    // The system kills it when we end without waiting for it.
    let mut test = Command::new("setpriv");
    test.args(["--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
    test.args(["bash", "-c", include_str!("install-test.sh"), "install-test"]);
    test.args([&system, scratch.path(), packages, &downloads]);
    test.args([major.to_string(), port::free()?.to_string(), env!("CARGO_PKG_VERSION").to_owned()]);
    test.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
    test.env("DEBIAN_FRONTEND", "noninteractive").stdout(file.try_clone()?).stderr(file);
    step(&format!("Installing, using and removing the packages in a clean Debian (log: {})", log.display()), || {
        let status = test.status().context("cannot run unshare")?;
        anyhow::ensure!(status.success(), "{status}\n{}", command::tail(&log));
        Ok(())
    })
}

/// The root of a minimal Debian of the same release as this machine. It stays in the target directory, and no test
/// writes to it. `None`, with a message, if it cannot be made.
pub fn clean_system() -> Result<Option<PathBuf>> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field =
        |name: &str| release.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_matches('"'));
    let (true, Some("debian"), Some(codename)) =
        (nix::unistd::geteuid().is_root(), field("ID="), field("VERSION_CODENAME="))
    else {
        eprintln!("» A clean Debian: skipped: only root can make one, on Debian, with debootstrap");
        return Ok(None);
    };
    let system = workspace::target_dir()?.join("clean").join(codename);
    if system.exists() {
        return Ok(Some(system));
    }
    let debootstrap = setup::ensure_program("debootstrap", "debootstrap")?;
    // Under another name until it is complete.
    let unfinished = system.with_extension("unfinished");
    step(&format!("Making a clean Debian in {}", system.display()), || {
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        command::output(Command::new(debootstrap).args(["--variant=minbase", codename]).arg(&unfinished))?;
        command::output(Command::new("chroot").arg(&unfinished).args(["apt-get", "clean"]))?;
        Ok(fs::rename(&unfinished, &system)?)
    })?;
    Ok(Some(system))
}
