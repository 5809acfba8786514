//! A connection to one Redis or to a cluster, with the same commands.

use std::future::ready;
use std::sync::Arc;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, Pipeline, RedisFuture, Value};

use super::sentinel::Watch;

/// A connection to a server that accepts writes.
///
/// In a cluster, commands and scripts with one key go to that key's node, and all keys of a pipeline must be in one
/// hash slot. With Sentinel, all commands fail after another server became the master.
#[derive(Clone)]
pub struct RedisConnection(Kind);

#[derive(Clone)]
enum Kind {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
    Watched(MultiplexedConnection, Arc<Watch>),
}

impl RedisConnection {
    pub(super) fn watched(connection: MultiplexedConnection, watch: Watch) -> RedisConnection {
        RedisConnection(Kind::Watched(connection, Arc::new(watch)))
    }
}

impl From<MultiplexedConnection> for RedisConnection {
    fn from(connection: MultiplexedConnection) -> RedisConnection {
        RedisConnection(Kind::One(connection))
    }
}

impl From<ClusterConnection> for RedisConnection {
    fn from(connection: ClusterConnection) -> RedisConnection {
        RedisConnection(Kind::Cluster(connection))
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Kind::One(connection) => connection.req_packed_command(command),
            Kind::Cluster(connection) => connection.req_packed_command(command),
            Kind::Watched(connection, watch) => match watch.check() {
                Ok(()) => connection.req_packed_command(command),
                Err(error) => Box::pin(ready(Err(error))),
            },
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Kind::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Kind::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
            Kind::Watched(connection, watch) => match watch.check() {
                Ok(()) => connection.req_packed_commands(pipeline, offset, count),
                Err(error) => Box::pin(ready(Err(error))),
            },
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Kind::One(connection) | Kind::Watched(connection, _) => connection.get_db(),
            Kind::Cluster(connection) => connection.get_db(),
        }
    }
}
