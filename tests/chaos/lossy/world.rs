//! The whole setup: a PostgreSQL that is replaced at each loss, a door to it, Redis, two relays, and an HTTP server.

use anyhow::{Context, Result};
use chrono::Utc;
use postgres::{Client, NoTls};
use std::path::{Path, PathBuf};
use xtask::stack::postgres::{FAST, PRELOADED, Postgres};
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

use super::consumer;
use super::evidence::{Loss, Truth};
use super::fault::{By, Cluster, Dropped, Fault};
use super::relays::Relays;
use crate::chaos::cluster::DATABASE;
use crate::chaos::evidence::history;
use crate::chaos::proxy::Proxy;
use crate::{PATIENCE, server_binary};

const SETTINGS: &[(&str, &str)] = &[
    PRELOADED,
    ("max_connections", "60"),
    // A recovery to a point in time finds all of it.
    ("wal_keep_size", "512MB"),
    ("log_line_prefix", "%m [%p] %a "),
];

#[derive(Debug)]
pub struct World {
    // Fields are dropped in this order: clients before their servers.
    pub relays: Relays,
    http: Server,
    /// The address of the HTTP server, which follows the feed for its clients and does not relay.
    pub http_address: String,
    pub redis: Redis,
    /// All clients of the database go through it, so they reach whichever takes its place.
    pub door: Proxy,
    pub primary: Postgres,
    pub truth: Truth,
    /// Findings of the injector.
    pub complaints: Vec<String>,
    logs: PathBuf,
}

impl World {
    pub fn start(logs: &Path) -> Result<World> {
        let primary = start_cluster()?;
        primary.create_database(DATABASE)?;
        let sql = "CREATE EXTENSION pg_workflow; SELECT workflow.create_consumer('relay', true);";
        primary.psql(DATABASE, &format!("{sql} {}", consumer::setup()))?;
        let redis = Redis::start("lossy")?;
        let door = Proxy::start(primary.port())?;
        let relays = Relays::start(&url_through(&door), &redis.url(), logs)?;
        let url = url_through(&door);
        let envs = [("DATABASE_URL", url.as_str()), ("WORKFLOW_LISTEN", "127.0.0.1:0")];
        let http = Server::start("lossy-http", &server_binary(), &["serve", "--no-relay"], &envs)?;
        let line = http.wait_line("listening on", PATIENCE)?;
        let http_address = line.rsplit_once("http://").context("no address")?.1.trim_end_matches('/').to_owned();
        let (truth, complaints, logs) = (Truth::default(), Vec::new(), logs.to_owned());
        Ok(World { relays, http, http_address, redis, door, primary, truth, complaints, logs })
    }

    /// The URL of the clients.
    pub fn url(&self) -> String {
        url_through(&self.door)
    }

    /// Connects the injector, whether the door is open or not.
    pub fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.primary.url(DATABASE), NoTls)?)
    }

    /// Cuts all clients off, keeps the history for the checker, and lets them in again once the database is replaced.
    /// What was confirmed before `from` may not be lost.
    pub fn lose(&mut self, fault: &Fault, from: i64, replace: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
        self.door.refuse();
        self.truth.histories.push(history(&mut self.connect()?)?);
        self.keep_log()?;
        replace(self)?;
        self.door.retarget(self.primary.port());
        if let Fault::Loss(super::fault::Loss { dropped: Some(Dropped::After(_)), .. }) = fault {
            self.primary.psql(DATABASE, super::drop::DROP)?;
        }
        let redelivers = matches!(fault, Fault::Loss(loss) if loss.by == By::Dump(Cluster::Other));
        self.truth.losses.push(Loss { fault: fault.to_string(), from, to: now(), redelivers });
        self.door.pass();
        Ok(())
    }

    /// Copies all logs to the log folder of the run.
    pub fn keep_logs(&mut self) -> Result<()> {
        self.keep_log()?;
        self.relays.keep_logs()?;
        std::fs::copy(self.http.log(), self.logs.join("http.log"))?;
        Ok(())
    }

    fn keep_log(&self) -> Result<()> {
        let kept = self.logs.join(format!("postgres-{}.log", self.truth.losses.len()));
        std::fs::copy(self.primary.log(), kept)?;
        Ok(())
    }
}

pub fn start_cluster() -> Result<Postgres> {
    Postgres::start("lossy", &[FAST, SETTINGS].concat())
}

fn url_through(door: &Proxy) -> String {
    format!("postgres://postgres@127.0.0.1:{}/{DATABASE}", door.port())
}

/// The time of day, in microseconds since 1970.
pub fn now() -> i64 {
    Utc::now().timestamp_micros()
}
