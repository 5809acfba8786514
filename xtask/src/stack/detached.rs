//! A process that outlives the one that started it, for `cargo xtask up`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::process::{PATIENCE, Program, Running};
use super::user;
use crate::command;

/// A process that was started and let go.
///
/// A process ID can be reused; together with the start time of the process it is unique.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Detached {
    pid: u32,
    started: String,
    log: PathBuf,
    stop_signal: String,
}

impl Detached {
    /// Starts a program in a process group of its own, where a terminal's Ctrl-C and hang-up do not reach it.
    pub fn spawn(program: &Program<'_>) -> Result<Self> {
        let mut command = user::command(&program.program, program.user.as_ref());
        program.prepare(&mut command);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&program.log)?;
        command.args(&program.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot run {}", command::shown(&command)))?;
        let pid = child.id();
        // The child was not waited for yet: even if it has ended already, its entry is still there.
        let started = start_of(pid).with_context(|| format!("cannot learn when process {pid} started"))?;
        Ok(Self { pid, started, log: program.log.clone(), stop_signal: program.stop_signal.to_owned() })
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        start_of(self.pid).as_deref() == Some(&self.started) && !is_zombie(self.pid)
    }

    /// Stops it with the signal that is right for it, and waits until it has ended.
    pub fn stop(&self) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        let signal: Signal = format!("SIG{}", self.stop_signal).parse()?;
        kill(Pid::from_raw(self.pid.try_into()?), signal)?;
        if !self.wait_ended(PATIENCE)? {
            bail!("process {} did not end within {PATIENCE:?} of {signal}; {}", self.pid, command::tail(&self.log));
        }
        Ok(())
    }
}

impl Running for Detached {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn log(&self) -> &Path {
        &self.log
    }

    fn wait_ended(&self, timeout: Duration) -> Result<bool> {
        // No signal tells of the end of a process that is not a child: poll it.
        let deadline = Instant::now() + timeout;
        while self.is_running() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(true)
    }
}

/// When a process started, in whatever form the system tells it.
fn start_of(pid: u32) -> Option<String> {
    match stat(pid) {
        Some(fields) => fields.get(19).cloned(),
        None if Path::new("/proc/self/stat").exists() => None,
        None => ps(pid, "lstart="),
    }
}

/// Whether it has ended, and only its parent has not taken notice yet.
fn is_zombie(pid: u32) -> bool {
    let state = stat(pid).and_then(|fields| fields.first().cloned()).or_else(|| ps(pid, "stat="));
    state.is_some_and(|state| state.starts_with('Z'))
}

/// The fields of Linux's /proc/PID/stat from the third on (the second, the name, may contain anything).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// What ps says, on systems without /proc.
fn ps(pid: u32, column: &str) -> Option<String> {
    let said = command::output(Command::new("ps").args(["-o", column, "-p", &pid.to_string()])).ok()?;
    Some(said.trim().to_owned()).filter(|said| !said.is_empty())
}
