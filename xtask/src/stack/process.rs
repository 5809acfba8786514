//! A server process that never outlives its owner.
//!
//! Between owner and server stands a shell that waits for its standard input, a pipe that the owner holds. Every line in
//! it is a signal to pass on to the server. When the owner ends, in whichever way, the system closes the pipe, and the
//! shell stops the server. Only a process that the shell itself has started and not yet waited for is ever signalled,
//! so its number cannot meanwhile be another's.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::User;

use super::user;
use crate::command;

/// How long a server may take to get ready, or to stop, before something is thought to be wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Standard output first carries the server's process id. Then only the server and its descendants have it (as file
/// descriptor 3), so that its end tells that they are all gone, not just the first of them.
const SUPERVISOR: &str = r#"
log=$1; last_signal=$2; shift 2
"$@" 3>&1 >>"$log" 2>&1 </dev/null &
pid=$!
echo $pid
exec >&-
while read -r signal; do kill -s "$signal" $pid; done
kill -s "$last_signal" $pid
wait $pid
"#;

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct Program<'a> {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub envs: Vec<(String, String)>,
    /// Whom to run it as; None: as oneself.
    pub user: Option<User>,
    pub dir: &'a Path,
    pub log: PathBuf,
    /// What stops it when its owner ends, without "SIG".
    pub stop_signal: &'static str,
}

impl Program<'_> {
    /// Gives a command the folder and the environment.
    pub(super) fn prepare(&self, command: &mut Command) {
        clean_environment(command);
        command.current_dir(self.dir).envs(self.envs.iter().map(|(name, value)| (name, value)));
    }
}

/// Removes from a command's environment what would change how a server or psql behaves: libpq's defaults, and
/// backtraces, which would get into error messages.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text == "RUST_BACKTRACE" || (text.starts_with("PG") && text != "PG_CONFIG") {
            command.env_remove(&name);
        }
    }
}

/// A running process: a child, or one that outlives the command.
pub trait Running {
    /// The server's own process id.
    fn pid(&self) -> u32;

    /// Where its output goes.
    fn log(&self) -> &Path;

    /// Waits until it has ended; false if it has not after so long.
    fn wait_ended(&self, timeout: Duration) -> Result<bool>;

    /// Waits until `ready`, which is asked again and again, gives something.
    fn wait_ready<T>(&self, what: &str, timeout: Duration, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            if self.wait_ended(Duration::from_millis(10))? {
                bail!("the server ended before it was {what}; {}", command::tail(self.log()));
            }
            if Instant::now() >= deadline {
                bail!("the server was not {what} within {timeout:?}; {}", command::tail(self.log()));
            }
        }
    }
}

/// A running server under its supervising shell.
#[derive(Debug)]
pub struct Process {
    shell: Child,
    /// None once it has been stopped.
    signals: Option<ChildStdin>,
    /// Ends when the server and all its descendants have ended.
    alive: ChildStdout,
    pid: u32,
    log: PathBuf,
    stop_signal: &'static str,
}

impl Process {
    /// Starts a server. The lock is kept for as long as it runs.
    pub fn spawn(program: &Program<'_>, lock: &File) -> Result<Self> {
        let mut command = user::command("sh", program.user.as_ref());
        command.args(["-c", SUPERVISOR, "sh"]).arg(&program.log).arg(program.stop_signal);
        command.arg(&program.program).args(&program.args);
        program.prepare(&mut command);
        // The lock takes the place of standard error, which the shell hardly uses: that is how a child gets a file.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(lock.try_clone()?);
        // Ctrl-C in a terminal is for the owner, whose end then stops the server in an orderly way.
        command.process_group(0);
        let mut shell = command.spawn().context("cannot run sh")?;
        let signals = shell.stdin.take();
        let mut alive = shell.stdout.take().expect("stdout is piped");
        let mut pid = String::new();
        BufReader::new(&mut alive).read_line(&mut pid)?;
        let pid = pid.trim().parse().context("the supervising shell did not start")?;
        Ok(Self { shell, signals, alive, pid, log: program.log.clone(), stop_signal: program.stop_signal })
    }

    /// Sends a signal (named without "SIG") and waits until the server and its descendants have ended.
    ///
    /// An end by a signal is reported as a shell does: as exit code 128 + the signal's number.
    pub fn stop(mut self, signal: &str) -> Result<ExitStatus> {
        self.signal(signal);
        if !self.wait_ended(PATIENCE)? {
            bail!("the server did not end within {PATIENCE:?} of SIG{signal}; {}", command::tail(&self.log));
        }
        self.dismiss()
    }

    fn signal(&mut self, name: &str) {
        // If this fails, the shell was killed; then the wait for the server returns an error.
        let _ = self.signals.as_mut().map(|signals| writeln!(signals, "{name}"));
    }

    /// Lets the shell report how the server ended.
    fn dismiss(&mut self) -> Result<ExitStatus> {
        self.signals = None;
        Ok(self.shell.wait()?)
    }
}

impl Running for Process {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn log(&self) -> &Path {
        &self.log
    }

    fn wait_ended(&self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.alive.as_fd(), PollFlags::POLLIN)], left) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                // Nothing is written after the pid, so readable means ended.
                Ok(count) => return Ok(count > 0),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.signals.is_none() {
            return;
        }
        self.signal(self.stop_signal);
        if !self.wait_ended(PATIENCE / 4).unwrap_or(false) {
            self.signal("KILL");
            let _ = self.wait_ended(PATIENCE / 4);
        }
        let _ = self.dismiss();
    }
}
