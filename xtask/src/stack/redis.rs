//! A private Redis that stores nothing on disk, unless its arguments say so.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::port;
use super::process::{PATIENCE, Process, Program, Running};
use super::scratch::Scratch;
use crate::setup;

/// The program, folder, port and arguments of a Redis.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    program: PathBuf,
    dir: PathBuf,
    port: u16,
    /// Added to the command line, where the last word counts.
    args: Vec<String>,
}

impl RedisConfig {
    pub fn new(dir: &Path, port: u16) -> Result<Self> {
        let program = setup::toolchain()?.redis_server.clone();
        Ok(Self { program, dir: dir.to_owned(), port, args: Vec::new() })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its data, if its arguments make it store any.
    pub fn data_dir(&self) -> &Path {
        &self.dir
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("redis.log")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How to run it.
    pub fn program(&self) -> Program<'_> {
        let (port, dir) = (self.port.to_string(), self.dir.display().to_string());
        let args = ["--bind", "127.0.0.1", "--port", &port, "--dir", &dir, "--save", "", "--appendonly", "no"];
        Program {
            program: self.program.clone(),
            args: args.map(str::to_owned).into_iter().chain(self.args.iter().cloned()).collect(),
            envs: Vec::new(),
            user: None,
            dir: &self.dir,
            log: self.log(),
            stop_signal: "TERM",
        }
    }

    /// Waits until it answers, be it that it wants a password.
    pub fn wait_ready(&self, running: &impl Running) -> Result<()> {
        let answers = |said: String| ["+PONG", "-NOAUTH"].iter().any(|answer| said.starts_with(answer));
        running.wait_ready("answering PING", PATIENCE, || answers(self.ping().ok()?).then_some(()))
    }

    /// Runs a command as the user without a password, and returns the answer.
    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        command_at(&self.url(), words)
    }

    fn ping(&self) -> std::io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        connection.write_all(b"PING\r\nQUIT\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// A Redis of one's own that runs. Dropping it stops it.
#[derive(Debug)]
pub struct Redis {
    config: RedisConfig,
    // Fields are dropped in this order: the server goes before its folder.
    process: Mutex<Option<Process>>,
    scratch: Scratch,
}

impl Redis {
    /// Starts it on a free port. `name` names its folder.
    pub fn start(name: &str) -> Result<Self> {
        Self::start_with(name, &[])
    }

    /// Starts it with more arguments, which go before those that it has anyway: `&["--maxmemory", "10mb"]`.
    pub fn start_with(name: &str, args: &[&str]) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let (config, process) = port::retrying(|port| {
            let mut config = RedisConfig::new(scratch.path(), port)?;
            config.args = args.iter().map(|&arg| arg.to_owned()).collect();
            let process = launch(&config, &scratch)?;
            Ok((config, process))
        })?;
        Ok(Self { config, process: Mutex::new(Some(process)), scratch })
    }

    /// Shuts it down. Its data is lost, unless its arguments make it store them.
    pub fn stop(&self) -> Result<()> {
        self.end("TERM")
    }

    /// Kills it.
    pub fn kill(&self) -> Result<()> {
        self.end("KILL")
    }

    /// Starts it after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port: empty, unless its
    /// arguments keep something.
    pub fn start_again(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap();
        if process.is_some() {
            bail!("Redis has not been stopped");
        }
        *process = Some(launch(&self.config, &self.scratch)?);
        Ok(())
    }

    /// Its process id; None while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.lock().unwrap().as_ref().map(Running::pid)
    }

    fn end(&self, signal: &str) -> Result<()> {
        let process = self.process.lock().unwrap().take();
        process.context("Redis is stopped already")?.stop(signal)?;
        Ok(())
    }
}

/// A running Redis has a port, a URL and a log.
impl std::ops::Deref for Redis {
    type Target = RedisConfig;

    fn deref(&self) -> &RedisConfig {
        &self.config
    }
}

/// Runs a command at a URL, and returns the answer.
pub(super) fn command_at<T: redis::FromRedisValue>(url: &str, words: &[&str]) -> Result<T> {
    let mut connection = redis::Client::open(url)?.get_connection_with_timeout(PATIENCE)?;
    let mut command = redis::Cmd::new();
    command.arg(words);
    command.query(&mut connection).with_context(|| words.join(" "))
}

fn launch(config: &RedisConfig, scratch: &Scratch) -> Result<Process> {
    let process = Process::spawn(&config.program(), scratch.lock())?;
    config.wait_ready(&process)?;
    Ok(process)
}
