//! Another release of Debian in a folder, for the PostgreSQL that this machine does not have.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{OPTIONAL, POSTGRES_MAJOR, PostgresInstall, can_install, ensure_program};
use crate::command::{self, output, run, step};
use crate::workspace;

/// Which release of Debian has which PostgreSQL.
const RELEASES: [(u32, &str); 3] = [(15, "bookworm"), (17, "trixie"), (18, "forky")];

/// Packages that cannot be installed from inside: cargo links with the first two, and needs the third for crates.io.
const PACKAGES: &str = "--include=gcc,libc6-dev,ca-certificates";

/// The variables of our environment that it gets.
const PASSED_ON: [&str; 9] = [
    "TERM",
    "CHAOS_SEED",
    "WORKFLOW_PATH",
    "RUST_TEST_THREADS",
    "CARGO_BUILD_JOBS",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "LANG",
];

/// Mounts the folders that a Debian needs from outside, and runs a program in it. `unshare` puts this into a mount
/// namespace, which ends with its last process: nothing stays mounted, and no other process sees the mounts.
const ENTER: &str = r#"
root=$1
shift
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" "$@"
"#;

/// A Debian below `target/pg`, kept from one run to the next.
#[derive(Debug)]
pub struct Debian {
    /// Its root.
    root: PathBuf,
    /// The target directory of its builds.
    target: PathBuf,
    /// The major version of its PostgreSQL.
    major: u32,
}

impl Debian {
    /// The one that has this PostgreSQL. Makes it first if it does not exist.
    pub fn with_postgres(major: u32) -> Result<Self> {
        let release = release_with(major)?;
        if !can_install() {
            bail!(
                "PostgreSQL {major} is not installed. Run this as root on Debian: it runs Debian {release} in a folder"
            );
        }
        let folder = workspace::target_dir()?.join("pg").join(major.to_string());
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        let this = Self { root: folder.join("root"), target: folder.join("target"), major };
        let complete = folder.join("complete");
        if !complete.exists() {
            let title = format!("Making a Debian {release} in {}", this.root.display());
            step(&title, || this.make(release, &folder.join("debootstrap.log"), lock))?;
            fs::write(&complete, release)?;
        }
        Ok(this)
    }

    /// A debootstrap that outlives us holds the lock too, as its standard input: no other process starts beside it.
    fn make(&self, release: &str, log: &Path, lock: File) -> Result<()> {
        ensure_program("debootstrap", "debootstrap")?;
        remove_tree(&self.root)?;
        let said = File::create(log)?;
        let mut debootstrap = unshared("debootstrap");
        debootstrap.args(["--variant=minbase", PACKAGES, release]).arg(&self.root).arg(mirror()?);
        // Named, because this machine's debootstrap may be older than the release. They are all made in the same way.
        debootstrap.arg("/usr/share/debootstrap/scripts/sid");
        debootstrap.env("LC_ALL", "C.UTF-8").stdin(lock).stdout(said.try_clone()?).stderr(said);
        run(&mut debootstrap).with_context(|| command::tail(log))?;
        fs::write(self.root.join("etc/apt/apt.conf.d/90host"), apt_settings()?)?;
        Ok(())
    }

    /// `cargo xtask test` in it, with these arguments for `cargo test`.
    pub fn xtask_test(&self, args: &[String]) -> Result<Command> {
        // They may have changed since it was made, and it has no other way to learn of them.
        for file in ["etc/hosts", "etc/resolv.conf"] {
            fs::copy(Path::new("/").join(file), self.root.join(file))
                .with_context(|| format!("cannot copy /{file}"))?;
        }
        if let Some(ours) = PostgresInstall::find()? {
            self.bring(&ours)?;
        }
        let toolchain = toolchain()?;
        let cargo_home = cargo_home()?;
        let mut enter = unshared("sh");
        enter.args(["-euc", ENTER, "sh"]).arg(&self.root);
        for folder in [&*toolchain, &*cargo_home, workspace::root()] {
            enter.args([folder, folder]);
        }
        let beside = workspace::root().parent().context("the repository is the root folder")?.join("shared");
        if let Ok(shared) = fs::canonicalize(&beside) {
            enter.args([shared, beside]);
        }
        enter.args(["--", "env", "-C"]).arg(workspace::root()).args(["cargo", "xtask", "test", "--"]).args(args);
        enter.env_clear().envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        let path = format!("{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", toolchain.display());
        enter.env("PATH", path).env("HOME", "/root").env("CARGO_HOME", cargo_home);
        enter.env("CARGO_TARGET_DIR", &self.target).env(OPTIONAL, "no");
        enter.env(POSTGRES_MAJOR, self.major.to_string());
        Ok(enter)
    }

    /// Copies this machine's PostgreSQL there, from which pg_upgrade begins, and the libraries that it lacks there.
    fn bring(&self, postgres: &PostgresInstall) -> Result<()> {
        let folders = [&postgres.bindir, &postgres.pkglibdir, &postgres.sharedir];
        for folder in folders {
            let place = self.inside(folder);
            fs::create_dir_all(&place)?;
            run(Command::new("cp").args(["--archive", "--update", "--no-target-directory"]).arg(folder).arg(place))?;
        }
        let linked = output(Command::new("ldd").arg(postgres.program("postgres")).arg(postgres.program("psql")))?;
        let libraries = linked.lines().filter_map(|line| line.split(" => ").nth(1)?.split(' ').next());
        for library in libraries.map(Path::new).filter(|library| !self.inside(library).exists()) {
            let place = self.inside(library);
            fs::create_dir_all(place.parent().context("a library in a folder")?)?;
            fs::copy(library, &place).with_context(|| format!("cannot copy {}", library.display()))?;
        }
        Ok(())
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

fn release_with(major: u32) -> Result<&'static str> {
    let found = RELEASES.iter().find(|(version, _)| *version == major);
    let (_, release) = found.with_context(|| {
        let all: Vec<String> = RELEASES.iter().map(|(version, release)| format!("{version} ({release})")).collect();
        let all = all.join(", ");
        format!("no Debian has PostgreSQL {major}; they have {all}. Set PG_CONFIG to an installed one")
    })?;
    Ok(release)
}

/// A program in a mount namespace of its own.
fn unshared(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", program]);
    command
}

/// Removes an incomplete root, unless something is mounted in it, which would be removed too.
fn remove_tree(root: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    let mounts = fs::read_to_string("/proc/mounts")?;
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    if let Some(place) = places.into_iter().find(|place| Path::new(place).starts_with(root)) {
        bail!("{place} is mounted: unmount it first");
    }
    fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))
}

/// The mirror from which this machine gets Debian's packages.
fn mirror() -> Result<String> {
    let format = "$(REPO_URI)";
    let uris = output(Command::new("apt-get").args(["indextargets", "--format", format, "Label: Debian"]))?;
    Ok(uris.lines().next().unwrap_or("http://deb.debian.org/debian").to_owned())
}

/// This machine's settings of apt for downloads: proxy, retries, treatment of old lists.
fn apt_settings() -> Result<String> {
    let wanted = ["Acquire::http", "Acquire::Check-", "Acquire::Retries"];
    let settings = output(Command::new("apt-config").args(["dump"]))?;
    let settings = settings.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    Ok(settings.map(|line| format!("{line}\n")).collect())
}

/// The folder of the Rust that runs this.
fn toolchain() -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = PathBuf::from(output(Command::new(rustc).args(["--print", "sysroot"]))?);
    if sysroot == Path::new("/usr") || !sysroot.join("bin/cargo").exists() {
        bail!("Rust in {} has no folder of its own to take along; install it with rustup", sysroot.display());
    }
    Ok(sysroot)
}

/// The folder of cargo's downloads.
fn cargo_home() -> Result<PathBuf> {
    let home = match std::env::var_os("CARGO_HOME") {
        Some(named) => PathBuf::from(named),
        None => PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo"),
    };
    Ok(home)
}
