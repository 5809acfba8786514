//! Installs missing programs, as root on Debian and its derivatives.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Missing;
use crate::{command, workspace};

/// Installs the packages of missing programs.
pub fn install(missing: &[Missing]) -> Result<()> {
    install_packages(|| packages(missing))
}

/// Installs the packages that are named once the lists are fresh, and starts no service and creates no cluster while
/// doing so.
pub fn install_packages(named: impl FnOnce() -> Result<Vec<String>>) -> Result<()> {
    let log = workspace::target_dir()?.join("apt.log");
    fs::create_dir_all(workspace::target_dir()?)?;
    let _no_services = TemporaryFile::create("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")?;
    let _no_cluster = TemporaryFile::create(
        "/etc/postgresql-common/createcluster.d/pg_workflow.conf",
        "create_main_cluster = false\n",
    )?;
    command::step("Refreshing the package lists", || apt_get(&["update"], &log))?;
    let packages = named()?;
    command::step(&format!("Installing {} (log: {})", packages.join(" "), log.display()), || {
        let mut args = vec!["install", "-y", "--no-install-recommends"];
        args.extend(packages.iter().map(String::as_str));
        apt_get(&args, &log)
    })
}

fn packages(missing: &[Missing]) -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for lacking in missing {
        match lacking {
            Missing::Postgres => {
                let major = postgres_major()?;
                packages.extend([format!("postgresql-{major}"), format!("postgresql-server-dev-{major}")]);
                // Its headers include those of ICU, and its package does not depend on them.
                packages.push("libicu-dev".to_owned());
            }
            Missing::Redis => packages.push("redis-server".to_owned()),
            Missing::Libclang => packages.extend(["libclang-dev".to_owned(), "clang".to_owned()]),
            Missing::Browser => packages.push("chromium".to_owned()),
            Missing::Python => packages.push("python3-venv".to_owned()),
            Missing::Pooler => packages.push("pgbouncer".to_owned()),
            Missing::Clock => packages.push("faketime".to_owned()),
        }
    }
    Ok(packages)
}

/// The version that the environment names, else the one whose server is installed and only lacks its headers, else the
/// one this Debian carries.
pub fn postgres_major() -> Result<u32> {
    if let Ok(wanted) = std::env::var(super::POSTGRES_MAJOR) {
        return wanted.parse().with_context(|| format!("{} is not a number: {wanted}", super::POSTGRES_MAJOR));
    }
    let servers = glob::glob("/usr/lib/postgresql/*/bin/postgres").expect("a valid pattern").flatten();
    let majors = servers.filter_map(|path| path.components().nth(4)?.as_os_str().to_str()?.parse().ok());
    if let Some(installed) = majors.max() {
        return Ok(installed);
    }
    let depends = command::output(Command::new("apt-cache").args(["depends", "postgresql"]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: postgresql-"));
    let package = package.with_context(|| format!("apt-cache names no PostgreSQL version:\n{depends}"))?;
    Ok(package.parse()?)
}

/// Runs apt-get with its output in a log; a terminal sees the latest line, a failure shows the last ones.
fn apt_get(args: &[&str], log: &Path) -> Result<()> {
    let mut file = File::create(log)?;
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file.try_clone()?);
    let mut child = command.spawn().context("cannot run apt-get")?;
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let terminal = std::io::stderr().is_terminal();
    for line in output.lines() {
        let line = line?;
        writeln!(file, "{line}")?;
        if terminal {
            eprint!("\r\x1b[K  {:.100}", line);
        }
    }
    if terminal {
        eprint!("\r\x1b[K");
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} failed: {status}\n{}", command::shown(&command), command::tail(log));
    }
    Ok(())
}

/// A file that exists for as long as this value does. One that was there before is left as it is.
///
/// A shell removes it when its standard input, a pipe that we hold, is closed. So it also goes when we are interrupted:
/// left behind, it would keep services from starting on the whole machine.
struct TemporaryFile {
    remover: Option<Child>,
}

/// A folder stays if a package has put something into it meanwhile.
const REMOVER: &str = r#"read _; rm -f "$1"; shift; for dir; do rmdir "$dir" 2>/dev/null; done"#;

impl TemporaryFile {
    fn create(path: &str, content: &str) -> Result<Self> {
        let path = Path::new(path);
        if path.exists() {
            return Ok(Self { remover: None });
        }
        let new_dirs = path.ancestors().skip(1).take_while(|dir| !dir.exists());
        let mut remover = Command::new("sh");
        remover.args(["-c", REMOVER, "sh"]).arg(path).args(new_dirs);
        // In a process group of its own, so that Ctrl-C does not end it before its work is done.
        let remover = remover.stdin(Stdio::piped()).process_group(0).spawn().context("cannot run sh")?;
        let this = Self { remover: Some(remover) };
        fs::create_dir_all(path.parent().expect("an absolute path"))?;
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        Ok(this)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Some(remover) = &mut self.remover {
            // This closes the pipe first.
            let _ = remover.wait();
        }
    }
}
