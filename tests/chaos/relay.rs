//! One relay: a workflow-server that is killed and restarted, behind its own link.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use xtask::stack::port;
use xtask::stack::server::Server;

use super::link::Link;
use crate::{PATIENCE, server_binary};

#[derive(Debug)]
pub struct Relay {
    pub link: Link,
    /// The address of its HTTP server.
    pub address: SocketAddr,
    log: PathBuf,
    process: Mutex<Option<Server>>,
}

impl Relay {
    /// Starts the relay, and waits until it listens.
    pub fn start(number: usize, link: Link, logs: &Path) -> Result<Relay> {
        let log = logs.join(format!("relay-{number}.log"));
        let (address, server) = port::retrying(|port| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let server = spawn(&link, address)?;
            server.wait_line("listening on", PATIENCE)?;
            Ok((address, server))
        })?;
        Ok(Relay { link, address, log, process: Mutex::new(Some(server)) })
    }

    pub fn kill(&self) -> Result<()> {
        let server = self.process.lock().unwrap().take().context("the relay is not running")?;
        self.keep(&server)?;
        server.kill()
    }

    pub fn start_again(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap();
        *process = Some(spawn(&self.link, self.address)?);
        Ok(())
    }

    /// Sends the relay a signal that it survives.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.lock().unwrap();
        let pid = process.as_ref().context("the relay is not running")?.pid();
        Ok(kill(Pid::from_raw(pid.cast_signed()), signal)?)
    }

    /// Copies the relay's log to the log folder of the run.
    pub fn keep_log(&self) -> Result<()> {
        self.process.lock().unwrap().as_ref().map_or(Ok(()), |server| self.keep(server))
    }

    fn keep(&self, server: &Server) -> Result<()> {
        let mut all = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        std::io::copy(&mut std::fs::File::open(server.log())?, &mut all)?;
        Ok(())
    }
}

fn spawn(link: &Link, address: SocketAddr) -> Result<Server> {
    let (database_url, redis_url, address) = (link.database_url(), link.redis_url(), address.to_string());
    let envs = [
        ("DATABASE_URL", database_url.as_str()),
        ("REDIS_URL", redis_url.as_str()),
        ("WORKFLOW_LISTEN", address.as_str()),
        // The checker compares the stream with the whole history.
        ("WORKFLOW_STREAM_MAX_LENGTH", "0"),
    ];
    Server::start("chaos-relay", &server_binary(), &["serve"], &envs)
}
