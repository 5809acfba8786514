//! A publisher's connection to Redis.

use std::io;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError};

use crate::Error;
use crate::redis_server::{RedisConnection, RedisServer};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of a command: a hung Redis counts as an outage. The fate of the command is then unknown, and the relay
/// compares the stream.
const TIMEOUT: Duration = Duration::from_secs(5);

pub struct Connection {
    pub server: RedisServer,
    open: Option<RedisConnection>,
}

impl Connection {
    pub fn to(server: RedisServer) -> Connection {
        Connection { server, open: None }
    }

    pub async fn connect(&mut self) -> Result<(), Error> {
        // Dropped first: the relay must not continue with the old connection.
        self.open = None;
        self.open = Some(self.server.connect(CONNECT_TIMEOUT, TIMEOUT).await?);
        Ok(())
    }

    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Error> {
        match &mut self.open {
            Some(connection) => Ok(command.query_async(connection).await?),
            None => Err(RedisError::from(io::Error::from(io::ErrorKind::NotConnected)).into()),
        }
    }

    /// Checks that Redis responds: by the key, because in a cluster PING could reach a node that does not hold it.
    pub async fn check(&mut self, key: &str) -> Result<(), Error> {
        self.ask(redis::cmd("EXISTS").arg(key)).await
    }
}
