//! A Redis channel: connected subscribers get each event at least once.

use super::redis_connection::Connection;
use super::{Position, Published, Publisher};
use crate::Error;
use crate::event::Event;
use crate::redis_server::RedisServer;

/// KEYS: the channel. ARGV: events.
const PUBLISH: &str = r"
for i = 1, #ARGV do redis.call('PUBLISH', KEYS[1], ARGV[i]) end
";

/// Publishes events as JSON in a Redis channel, which stores nothing.
///
/// In a cluster all events go through one node, so their order is kept. The Redis user needs `+eval +exists +publish`
/// and, because scripts have keys, `~` as well as `&` for the channel.
///
/// ```
/// use pg_workflow_client::{publisher::RedisChannel, redis_server::RedisServer};
///
/// let channel = RedisChannel::new(RedisServer::parse("redis://127.0.0.1:6379")?, "workflow:events");
/// # Ok::<(), pg_workflow_client::Error>(())
/// ```
pub struct RedisChannel {
    redis: Connection,
    channel: String,
}

impl RedisChannel {
    /// Creates a publisher for this channel; does not connect yet.
    pub fn new(server: RedisServer, channel: &str) -> RedisChannel {
        RedisChannel { redis: Connection::to(server), channel: channel.to_owned() }
    }
}

impl Publisher for RedisChannel {
    fn name(&self) -> String {
        "Redis".to_owned()
    }

    fn describe(&self) -> String {
        format!("channel \"{}\" of Redis at {}", self.channel, self.redis.server)
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.redis.connect().await
    }

    async fn publish(&mut self, events: &[Event], _: Option<Position>) -> Result<Published, Error> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(PUBLISH).arg(1).arg(&self.channel);
        for event in events {
            eval.arg(serde_json::to_vec(event)?);
        }
        self.redis.ask::<()>(&eval).await?;
        Ok(Published::Done)
    }

    async fn check(&mut self) -> Result<(), Error> {
        self.redis.check(&self.channel).await
    }
}
