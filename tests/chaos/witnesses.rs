//! All witnesses of a run.

use anyhow::Result;
use postgres::IsolationLevel;
use std::net::SocketAddr;
use uuid::Uuid;

use super::witness::{Record, Witness};
use super::{consumer, follower, listener, web_follower};

#[derive(Debug)]
pub struct Witnesses(Vec<Witness>);

impl Witnesses {
    /// Starts those that read from the database; the consumer does so through a pooler.
    pub fn start(url: &str, pooled_url: &str) -> Result<Witnesses> {
        use IsolationLevel::{ReadCommitted, RepeatableRead, Serializable};
        Ok(Witnesses(vec![
            listener::start(url, "listener 0")?,
            listener::start(url, "listener 1")?,
            follower::start(url, "follower, read committed", ReadCommitted)?,
            follower::start(url, "follower, repeatable read", RepeatableRead)?,
            follower::start(url, "follower, serializable", Serializable)?,
            consumer::start(pooled_url, "pooled consumer")?,
        ]))
    }

    /// Starts the one that reads from servers at these addresses.
    pub fn follow_over_http(&mut self, servers: [SocketAddr; 2]) -> Result<()> {
        self.0.push(web_follower::start(servers, "HTTP follower")?);
        Ok(())
    }

    /// Waits until all have seen the event of this entity, which is the last one.
    pub fn finish(self, last: Uuid) -> Result<Vec<Record>> {
        self.0.iter().for_each(|witness| witness.end_with(last));
        self.0.into_iter().map(Witness::finish).collect()
    }
}
