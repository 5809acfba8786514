//! The images that ours are made from: the public ones, or stand-ins.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::engine::Engine;
use crate::command::{self, step};
use crate::package::clean_system;
use crate::stack::scratch::Scratch;
use crate::{setup, workspace};

/// The names of images.
#[derive(Default)]
pub struct BaseImages {
    stand_ins: Vec<(&'static str, String)>,
}

impl BaseImages {
    /// Variables for docker/compose.yaml; empty for its defaults.
    pub fn variables(self) -> Vec<(&'static str, String)> {
        self.stand_ins
    }
}

/// The public images that docker/Dockerfile and docker/compose.yaml name. If none can be pulled: stand-ins made of
/// Debian's packages and the Rust of this machine.
pub fn base_images(engine: &Engine) -> Result<BaseImages> {
    if step("Looking for a registry", || Ok(engine.output(&["pull", "--quiet", "debian:bookworm-slim"]).is_ok()))? {
        return Ok(BaseImages::default());
    }
    let system = clean_system()?.context("no image can be pulled, and none be made")?;
    let name = |what: &str| format!("localhost/stand-in-{what}");
    step("Making stand-ins for the images that cannot be pulled", || {
        import_debian(engine, &system, &name("debian"))?;
        import_rust(engine, &name("rust"))?;
        build_servers(engine)
    })?;
    let variables = ["DEBIAN_IMAGE", "RUST_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE"];
    let names = ["debian", "rust", "postgres", "redis"].map(name);
    Ok(BaseImages { stand_ins: variables.into_iter().zip(names).collect() })
}

/// A clean Debian that also trusts the additional certificate authorities of this machine.
fn import_debian(engine: &Engine, system: &Path, name: &str) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["-c", "-C"]).arg(system).args([".", "-C", "/", "./usr/local/share/ca-certificates"]);
    import(engine, &mut tar, name)
}

/// The toolchain that compiles this, at the path of the toolchain in the public image.
fn import_rust(engine: &Engine, name: &str) -> Result<()> {
    let sysroot = command::output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace::root()))?;
    let scratch = Scratch::new("rust")?;
    let programs = scratch.path().join("usr/local/cargo/bin");
    fs::create_dir_all(&programs)?;
    for program in ["cargo", "rustc", "rustfmt"] {
        let toolchain = format!("../../rustup/toolchains/stand-in/bin/{program}");
        std::os::unix::fs::symlink(toolchain, programs.join(program))?;
    }
    let mut tar = Command::new("tar");
    tar.args(["-c", "--transform", "s,^\\./,usr/local/rustup/toolchains/stand-in/,"]);
    tar.arg("-C").arg(scratch.path()).args(["usr", "-C", &sysroot, "./bin", "./lib"]);
    import(engine, &mut tar, name)
}

/// Makes an image from the output of tar, unless it exists.
fn import(engine: &Engine, tar: &mut Command, name: &str) -> Result<()> {
    if engine.output(&["image", "inspect", name]).is_ok() {
        return Ok(());
    }
    let mut packing = tar.stdout(Stdio::piped()).spawn().context("cannot run tar")?;
    let files = packing.stdout.take().context("tar has no output")?;
    command::run(engine.docker().args(["import", "-", name]).stdin(files).stdout(Stdio::null()))?;
    ensure!(packing.wait()?.success(), "tar failed");
    Ok(())
}

/// PostgreSQL, of the version that this machine has, and Redis.
fn build_servers(engine: &Engine) -> Result<()> {
    let file = workspace::root().join("xtask/src/compose_test/stand_ins/compose.yaml");
    let mut build = engine.docker();
    build.args(["compose", "--progress", "plain", "--file"]).arg(file).args(["build", "--quiet"]);
    command::output(build.env("MAJOR", setup::ensure()?.postgres.major.to_string()))?;
    Ok(())
}
