//! A publisher's connection to Redis.

use std::io;
use std::time::Duration;

use redis::{Arg, Cmd, FromRedisValue, RedisError};

use crate::Error;
use crate::redis_server::{RedisConnection, RedisServer};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of a command: a hung Redis counts as an outage. The fate of the command is then unknown, and the relay
/// compares the stream.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A command may take longer by the time that its bytes need at this rate, in bytes a second.
const SLOWEST_RATE: f64 = 1e6;
/// The driver's own limit, which no command reaches.
const LONGEST: Duration = Duration::from_secs(3600);

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
        self.open = Some(self.server.connect(CONNECT_TIMEOUT, LONGEST).await?);
        Ok(())
    }

    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Error> {
        let Some(connection) = &mut self.open else { return Err(io_error(io::ErrorKind::NotConnected)) };
        let response = tokio::time::timeout(time_limit(command), command.query_async(connection)).await;
        Ok(response.map_err(|_| io_error(io::ErrorKind::TimedOut))??)
    }

    /// Checks that Redis responds: by the key, because in a cluster PING could reach a node that does not hold it.
    pub async fn check(&mut self, key: &str) -> Result<(), Error> {
        self.ask(redis::cmd("EXISTS").arg(key)).await
    }
}

fn io_error(kind: io::ErrorKind) -> Error {
    RedisError::from(io::Error::from(kind)).into()
}

fn time_limit(command: &Cmd) -> Duration {
    let length = |argument| match argument {
        Arg::Simple(bytes) => <[u8]>::len(bytes),
        _ => 0,
    };
    let bytes: usize = command.args_iter().map(length).sum();
    TIMEOUT + Duration::from_secs_f64(bytes as f64 / SLOWEST_RATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limit_grows_with_the_bytes_of_a_command() {
        let limit = |bytes: usize| time_limit(redis::cmd("SET").arg("key").arg(vec![0; bytes])).as_secs();
        assert_eq!([limit(0), limit(90_000_000)], [5, 95]);
    }
}
