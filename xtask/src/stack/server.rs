//! A `workflow-server` process, or any other program that logs and ends on SIGTERM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;

use super::process::{PATIENCE, Process, Program, Running};
use super::scratch::Scratch;

/// A server that runs. Dropping it stops it with SIGTERM, and kills it if it does not listen to that.
#[derive(Debug)]
pub struct Server {
    // Fields are dropped in this order: the server goes before its folder.
    process: Process,
    scratch: Scratch,
}

impl Server {
    /// Starts a program with these arguments and, beside our own, these environment variables. `name` names
    /// its folder.
    pub fn start(name: &str, binary: &Path, args: &[&str], envs: &[(&str, &str)]) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let program = Program {
            program: binary.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            envs: envs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            user: None,
            dir: scratch.path(),
            log: scratch.path().join("server.log"),
            stop_signal: "TERM",
        };
        let process = Process::spawn(&program, scratch.lock())?;
        Ok(Self { process, scratch })
    }

    /// Starts `workflow-server serve` on a free port, and waits until it listens; returns its URL too.
    pub fn serve(name: &str, binary: &Path, database_url: &str, redis_url: &str) -> Result<(Self, String)> {
        let envs = [("DATABASE_URL", database_url), ("REDIS_URL", redis_url), ("WORKFLOW_LISTEN", "127.0.0.1:0")];
        let server = Self::start(name, binary, &["serve"], &envs)?;
        let line = server.wait_line("listening on", PATIENCE)?;
        let url = line.split_whitespace().next_back().unwrap_or_default().to_owned();
        Ok((server, url))
    }

    /// Asks it to end, and waits until it has. An end by a signal is exit code 128 + the signal's number.
    pub fn terminate(self) -> Result<ExitStatus> {
        self.process.stop("TERM")
    }

    /// Kills it.
    pub fn kill(self) -> Result<()> {
        self.process.stop("KILL").map(drop)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The file with all it has printed.
    pub fn log(&self) -> PathBuf {
        self.scratch.path().join("server.log")
    }

    /// Waits for a line in its log that contains this text, and returns it. An error if it ends before.
    pub fn wait_line(&self, text: &str, timeout: Duration) -> Result<String> {
        let log = self.log();
        self.process.wait_ready(&format!("saying {text:?}"), timeout, || {
            let printed = fs::read(&log).ok()?;
            let printed = String::from_utf8_lossy(&printed);
            // Only lines that are complete.
            let mut lines = printed.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines.find(|line| line.contains(text)).map(|line| line.trim_end().to_owned())
        })
    }

    /// Waits until it has ended by itself; false if it has not after so long.
    pub fn wait_ended(&self, timeout: Duration) -> Result<bool> {
        self.process.wait_ended(timeout)
    }
}
