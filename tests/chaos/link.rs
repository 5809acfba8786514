//! The connections of one client to the servers, through its own proxies, so that a fault can cut off this client alone.

use anyhow::Result;

use super::cluster::DATABASE;
use super::proxy::{Cut, Proxy};

#[derive(Debug)]
pub struct Link {
    /// One for each server of the cluster.
    pub postgres: [Proxy; 2],
    pub redis: Proxy,
}

impl Link {
    pub fn new(postgres: [u16; 2], redis: u16) -> Result<Link> {
        let [first, second] = postgres;
        Ok(Link { postgres: [Proxy::start(first)?, Proxy::start(second)?], redis: Proxy::start(redis)? })
    }

    /// The URL of both servers; a client uses the one that accepts writes.
    pub fn database_url(&self) -> String {
        let [first, second] = [self.postgres[0].port(), self.postgres[1].port()];
        format!("postgres://postgres@127.0.0.1:{first},127.0.0.1:{second}/{DATABASE}?target_session_attrs=read-write")
    }

    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.redis.port())
    }

    /// The proxies to one of the servers.
    pub fn to(&self, peer: Peer) -> impl Iterator<Item = &Proxy> {
        let proxies: &[Proxy] = match peer {
            Peer::Postgres => &self.postgres,
            Peer::Redis => std::slice::from_ref(&self.redis),
        };
        proxies.iter()
    }

    pub fn cut(&self, peer: Peer, how: Cut) {
        self.to(peer).for_each(|proxy| proxy.cut(how));
    }
}

/// A server that a client can be cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Postgres,
    Redis,
}
