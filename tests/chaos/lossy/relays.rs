//! Two relays of one consumer, which an operator restarts with the source that they refuse.

use anyhow::{Context, Result};
use redis::Commands;
use std::fs::{File, OpenOptions, read_to_string};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;
use xtask::stack::server::Server;

use super::loss::wait;
use super::sse::get;
use super::world::World;
use crate::chaos::evidence::STREAM;
use crate::{PATIENCE, server_binary};

/// Longer than a relay waits between two attempts.
const RETRIED: Duration = Duration::from_secs(2);
/// With the token, `/health` shows the messages of the servers.
const TOKEN: &str = "lossy";

#[derive(Debug)]
pub struct Relays {
    envs: Vec<(String, String)>,
    adopted: Vec<String>,
    logs: PathBuf,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    server: Server,
    address: String,
}

impl Relays {
    /// Starts both, and waits until they listen.
    pub fn start(database_url: &str, redis_url: &str, logs: &Path) -> Result<Relays> {
        let envs = [
            ("DATABASE_URL", database_url),
            ("REDIS_URL", redis_url),
            ("WORKFLOW_LISTEN", "127.0.0.1:0"),
            ("WORKFLOW_TOKEN", TOKEN),
            // The checker compares the stream with the whole history.
            ("WORKFLOW_STREAM_MAX_LENGTH", "0"),
        ];
        let envs: Vec<_> = envs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let running = vec![start_relay(&envs)?, start_relay(&envs)?];
        Ok(Relays { envs, adopted: Vec::new(), logs: logs.to_owned(), running })
    }

    /// The status of `/health` of each, with its body.
    pub fn health(&self) -> Result<Vec<(u16, String)>> {
        self.running.iter().map(|relay| get(&relay.address, "/health", TOKEN)).collect()
    }

    /// The source that one of them refuses.
    fn refused_source(&self) -> Option<String> {
        self.running.iter().find_map(|relay| refused_source(&relay.server))
    }

    /// Starts both again, with one more source that they accept.
    fn adopt(&mut self, source: String) -> Result<()> {
        self.keep_logs()?;
        self.adopted.push(source);
        let adopted = ("WORKFLOW_ADOPT_STREAM".to_owned(), self.adopted.join(","));
        let envs = [&self.envs[..], &[adopted]].concat();
        for relay in std::mem::take(&mut self.running) {
            relay.server.terminate()?;
            self.running.push(start_relay(&envs)?);
        }
        Ok(())
    }

    /// Appends their logs to those of the run.
    pub fn keep_logs(&self) -> Result<()> {
        for (number, relay) in self.running.iter().enumerate() {
            let log = self.logs.join(format!("relay-{number}.log"));
            let mut all = OpenOptions::new().create(true).append(true).open(log)?;
            std::io::copy(&mut File::open(relay.server.log())?, &mut all)?;
        }
        Ok(())
    }
}

/// The source that a relay refuses, as its log names it.
pub fn refused_source(relay: &Server) -> Option<String> {
    // There is no log before the first line.
    let log = read_to_string(relay.log()).unwrap_or_default();
    let (_, rest) = log.split_once("events of another database (")?;
    Some(rest.split_once(')')?.0.to_owned())
}

fn start_relay(envs: &[(String, String)]) -> Result<Running> {
    let envs: Vec<(&str, &str)> = envs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let server = Server::start("lossy-relay", &server_binary(), &["serve"], &envs)?;
    let line = server.wait_line("listening on", PATIENCE)?;
    let address = line.rsplit_once("http://").context("no address")?.1.trim_end_matches('/').to_owned();
    Ok(Running { server, address })
}

/// After a restore from a dump: the relays refuse the stream and are unhealthy, until an operator names each of its sources.
pub fn adopt(world: &mut World) -> Result<()> {
    let mut redis = redis::Client::open(world.redis.url())?.get_connection()?;
    let before: u64 = redis.xlen(STREAM)?;
    let mut source = None;
    wait("a relay refuses the stream", || {
        source = world.relays.refused_source();
        Ok(source.is_some())
    })?;
    let says_so = |(status, body): &(u16, String)| *status == 503 && body.contains("--adopt-stream");
    wait("a relay is unhealthy", || Ok(world.relays.health()?.iter().any(says_so)))?;
    sleep(RETRIED);
    if redis.xlen::<_, u64>(STREAM)? != before {
        world.complaints.push("events entered the stream that its relays refuse".to_owned());
    }
    while let Some(refused) = source.take() {
        world.relays.adopt(refused)?;
        wait("the relays write or refuse again", || {
            source = world.relays.refused_source();
            Ok(source.is_some() || redis.xlen::<_, u64>(STREAM)? > before)
        })?;
    }
    Ok(())
}
