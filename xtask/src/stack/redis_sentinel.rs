//! A private Redis that Sentinel watches: a master, a replica and one sentinel, which decides alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::port;
use super::process::{PATIENCE, Process, Program, Running};
use super::redis::{Redis, command_at};
use super::scratch::Scratch;
use crate::setup;

/// The sentinel's name of its master.
pub const MASTER: &str = "workflow";

/// Two servers and a sentinel that run. Dropping it stops them.
#[derive(Debug)]
pub struct RedisSentinel {
    /// The first master, then its replica; a failover swaps them.
    servers: [Redis; 2],
    password: String,
    port: u16,
    // Fields are dropped in this order: the sentinel goes before its folder.
    _process: Process,
    _scratch: Scratch,
}

impl RedisSentinel {
    /// Starts them, and waits until the sentinel knows both. The servers have this password, the sentinel has none.
    pub fn start(name: &str, password: &str) -> Result<Self> {
        let secret = ["--requirepass", password, "--masterauth", password];
        // The replica gets its first copy at once.
        let master = Redis::start_with(name, &[&secret[..], &["--repl-diskless-sync-delay", "0"]].concat())?;
        let of_master = ["--replicaof", "127.0.0.1", &master.port().to_string()];
        let replica = Redis::start_with(name, &[&secret[..], &of_master].concat())?;
        let scratch = Scratch::new(name)?;
        let (port, process) = port::retrying(|port| {
            let config = write_config(scratch.path(), port, &master, password)?;
            Ok((port, launch(&scratch, &config, port)?))
        })?;
        let password = password.to_owned();
        let this = Self { servers: [master, replica], password, port, _process: process, _scratch: scratch };
        this.wait_ready()?;
        Ok(this)
    }

    /// The sentinel's own URL, without the password of the servers.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The first master and its replica, whatever they are by now.
    pub fn servers(&self) -> &[Redis; 2] {
        &self.servers
    }

    /// The URL of one of the servers, with its password.
    pub fn url_of(&self, server: &Redis) -> String {
        format!("redis://:{}@127.0.0.1:{}", self.password, server.port())
    }

    /// The port of the server that is the master now, according to the sentinel.
    pub fn master_port(&self) -> Result<u16> {
        let (_, port): (String, u16) = self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER])?;
        Ok(port)
    }

    /// Lets the sentinel make the replica the master, and waits until it says so.
    pub fn fail_over(&self) -> Result<()> {
        let before = self.master_port()?;
        self.ask::<()>(&["SENTINEL", "FAILOVER", MASTER])?;
        wait("the failover", || Ok(self.master_port()? != before))
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        command_at(&self.url(), words)
    }

    /// Until then a failover would find no replica to promote.
    fn wait_ready(&self) -> Result<()> {
        wait("a replica in step", || {
            let replicas: Vec<std::collections::HashMap<String, String>> =
                self.ask(&["SENTINEL", "REPLICAS", MASTER])?;
            let in_step = |replica: &std::collections::HashMap<String, String>| {
                replica["flags"] == "slave" && replica["master-link-status"] == "ok"
            };
            Ok(replicas.iter().any(in_step))
        })
    }
}

/// The sentinel writes into it too.
fn write_config(dir: &Path, port: u16, master: &Redis, password: &str) -> Result<PathBuf> {
    let config = dir.join("sentinel.conf");
    let master_port = master.port();
    let text = format!(
        "bind 127.0.0.1\nport {port}\ndir \"{}\"\n\
         sentinel monitor {MASTER} 127.0.0.1 {master_port} 1\n\
         sentinel auth-pass {MASTER} {password}\n\
         sentinel down-after-milliseconds {MASTER} 1000\n\
         sentinel failover-timeout {MASTER} 5000\n",
        dir.display()
    );
    fs::write(&config, text)?;
    Ok(config)
}

fn launch(scratch: &Scratch, config: &Path, port: u16) -> Result<Process> {
    let program = Program {
        program: setup::toolchain()?.redis_server.clone(),
        args: vec![config.display().to_string(), "--sentinel".to_owned()],
        envs: Vec::new(),
        user: None,
        dir: scratch.path(),
        log: scratch.path().join("sentinel.log"),
        stop_signal: "TERM",
    };
    let process = Process::spawn(&program, scratch.lock())?;
    let url = format!("redis://127.0.0.1:{port}");
    process.wait_ready("answering PING", PATIENCE, || command_at::<String>(&url, &["PING"]).ok())?;
    Ok(process)
}

fn wait(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() >= deadline {
            bail!("timed out waiting for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
