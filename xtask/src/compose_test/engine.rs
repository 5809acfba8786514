//! A container engine: the one that runs, or one of our own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{self, step};
use crate::stack::Server;
use crate::stack::process::PATIENCE;
use crate::stack::scratch::Scratch;
use crate::{setup, workspace};

/// Compose 2, which Debian 12 lacks: the package of Debian 13 needs nothing else that is newer.
const COMPOSE_SOURCE: &str =
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n";

/// Where containers run.
pub struct Engine {
    /// Fields are dropped in this order: the engine goes before the folder with its socket.
    own: Option<(Server, Scratch)>,
    /// Where docker looks for its plugins, beside the usual places.
    config: PathBuf,
}

impl Engine {
    /// The engine that docker is set to, else one of our own, which ends with the value. Its data stays below the target
    /// directory, so that images need not be built again.
    pub fn find_or_start() -> Result<Engine> {
        let dockerd = if is_running() { None } else { Some(setup::ensure_program("dockerd", "docker.io")?) };
        // With the engine in Debian 12, a package of its own later.
        setup::ensure_program("docker", "docker-cli")?;
        let folder = workspace::target_dir()?.join("docker");
        let config = folder.join("config");
        fs::create_dir_all(&config)?;
        let own = dockerd.map(|dockerd| step("Starting dockerd", || start(&dockerd, &folder))).transpose()?;
        let engine = Engine { own, config };
        engine.ensure_compose(&folder)?;
        Ok(engine)
    }

    /// Docker's command line, set to this engine.
    pub fn docker(&self) -> Command {
        let mut docker = Command::new("docker");
        docker.current_dir(workspace::root());
        if let Some((_, scratch)) = &self.own {
            docker.env("DOCKER_HOST", socket(scratch.path())).env("DOCKER_CONFIG", &self.config);
        }
        docker
    }

    pub fn output(&self, arguments: &[&str]) -> Result<String> {
        command::output(self.docker().args(arguments))
    }

    fn ensure_compose(&self, folder: &Path) -> Result<()> {
        let has_compose = || self.output(&["compose", "version"]);
        if has_compose().is_ok() {
            return Ok(());
        }
        ensure!(self.own.is_some(), "docker has no command compose: install Compose 2");
        step("Fetching Compose 2", || fetch_compose(folder, &self.config))?;
        has_compose().map(drop).context("docker does not find the plugin compose")
    }
}

fn is_running() -> bool {
    command::output(Command::new("docker").args(["info", "--format", "{{.ServerVersion}}"])).is_ok()
}

fn start(dockerd: &Path, folder: &Path) -> Result<(Server, Scratch)> {
    setup::ensure_program("iptables", "iptables")?;
    let scratch = Scratch::short()?;
    let path = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    let data = folder.join("data").to_string_lossy().into_owned();
    // In mounts of its own, which end with it and its containers.
    let arguments = ["--mount", &dockerd.to_string_lossy(), "--data-root", &data, "--exec-root", &path("exec")];
    let more = ["--pidfile", &path("pid"), "--host", &socket(scratch.path())];
    let server = Server::start("dockerd", Path::new("unshare"), &[&arguments[..], &more].concat(), &[])?;
    server.wait_line("API listen on", PATIENCE)?;
    Ok((server, scratch))
}

fn socket(folder: &Path) -> String {
    format!("unix://{}", folder.join("socket").display())
}

/// Unpacks Debian's package below our own folder: nothing is installed. apt verifies its signature.
fn fetch_compose(folder: &Path, config: &Path) -> Result<()> {
    let work = folder.join("compose");
    for needed in ["lists/partial", "cache/archives/partial", "unpacked"] {
        fs::create_dir_all(work.join(needed))?;
    }
    fs::write(work.join("sources.list"), COMPOSE_SOURCE)?;
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        for (setting, place) in [
            ("Dir::Etc::SourceList", work.join("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::State::Lists", work.join("lists")),
            ("Dir::Cache", work.join("cache")),
            ("APT::Sandbox::User", "root".into()),
        ] {
            apt.arg("-o").arg(format!("{setting}={}", place.display()));
        }
        command::output(apt.args(arguments).current_dir(&work))
    };
    apt(&["update"])?;
    apt(&["download", "docker-compose"])?;
    let package = glob::glob(&work.join("docker-compose_*.deb").to_string_lossy())?.flatten().next();
    let package = package.context("apt-get has downloaded nothing")?;
    command::output(Command::new("dpkg").arg("--extract").args([&package, &work.join("unpacked")]))?;
    let plugins = config.join("cli-plugins");
    fs::create_dir_all(&plugins)?;
    let link = plugins.join("docker-compose");
    if link.is_symlink() {
        // It leads to the earlier path of this folder.
        fs::remove_file(&link)?;
    }
    symlink(work.join("unpacked/usr/libexec/docker/cli-plugins/docker-compose"), link)?;
    Ok(())
}
