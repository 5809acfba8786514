//! The whole setup: the cluster, Redis, two relays, and the links to them.

use anyhow::Result;
use std::path::{Path, PathBuf};
use xtask::stack::pooler::Pooler;
use xtask::stack::redis::Redis;

use super::cluster::{Cluster, Crowd, DATABASE};
use super::link::Link;
use super::relay::Relay;

/// Redis writes confirmed data to disk at once, so it loses data only by a fault.
const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"];

#[derive(Debug)]
pub struct World {
    // Fields are dropped in this order: clients before their servers.
    pub relays: [Relay; 2],
    /// The link of the writers.
    pub writers: Link,
    /// The link of the workers that claim tasks.
    pub workers: Link,
    /// The link of clients that no fault cuts off.
    pub undisturbed: Link,
    /// The link of the witnesses.
    pub readers: Link,
    /// A pooler before the primary, if PgBouncer is installed.
    pub pooler: Option<Pooler>,
    pub redis: Redis,
    pub cluster: Cluster,
    logs: PathBuf,
}

impl World {
    pub fn start(logs: &Path, crowd: Crowd) -> Result<World> {
        let cluster = Cluster::start(logs, crowd)?;
        let redis = Redis::start_with("chaos", DURABLE)?;
        let link = || Link::new(cluster.ports()?, redis.port());
        let relay = |number| Relay::start(number, link()?, logs);
        let pooler = cluster.with_primary(|primary| Pooler::start(&primary.on_port(cluster.to_primary.port()), 2))?;
        Ok(World {
            relays: [relay(0)?, relay(1)?],
            writers: link()?,
            workers: link()?,
            undisturbed: link()?,
            readers: link()?,
            pooler,
            redis,
            cluster,
            logs: logs.to_owned(),
        })
    }

    pub fn links(&self) -> [&Link; 6] {
        let [first, second] = &self.relays;
        [&first.link, &second.link, &self.writers, &self.workers, &self.undisturbed, &self.readers]
    }

    /// The URL of the primary's database, without a proxy.
    pub fn database_url(&self) -> Result<String> {
        self.cluster.with_primary(|primary| Ok(primary.url(DATABASE)))
    }

    /// The URL of the database through the pooler, or without one by the readers' link.
    pub fn pooled_url(&self) -> String {
        self.pooler.as_ref().map_or_else(|| self.readers.database_url(), |pooler| pooler.url(DATABASE))
    }

    /// Copies all logs to the log folder of the run.
    pub fn keep_logs(&self) -> Result<()> {
        self.cluster.keep_logs()?;
        self.relays.iter().try_for_each(Relay::keep_log)?;
        std::fs::copy(self.redis.log(), self.logs.join("redis.log"))?;
        Ok(())
    }
}
