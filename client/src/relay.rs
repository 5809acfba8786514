//! The relay: every event of the feed is published in Redis, at least once, in order within each entity.

use std::time::Duration;

use futures_util::{Stream, TryStreamExt, future};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, IntoConnectionInfo, Pipeline};
use tokio_postgres::Config;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::connect::STATEMENT_TIMEOUT;
use crate::event::Event;
use crate::feed::Feed;
use crate::outage::{Backoff, Outage};

/// Events read at once. Larger batches drain a backlog no faster.
const BATCH: i32 = 2_000;
/// Events are sent to Redis when they amount to this, so that a batch of large ones need not fit into memory.
const CHUNK_BYTES: usize = 1 << 20;
/// How often to look without having heard anything, and to see whether both servers are still there.
const POLL: Duration = Duration::from_secs(1);
/// How long a batch may take to be finished once the relay is told to stop.
const GRACE: Duration = Duration::from_secs(3);
const REDIS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A hung Redis counts as an outage. What became of the commands is unknown then: they are sent again.
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);

/// What to relay, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name under which the database keeps the relay's place in the feed.
    pub consumer: String,
    /// The channel to publish in.
    pub channel: String,
}

/// Reads a Redis URL. Nothing is connected yet.
///
/// # Errors
/// [`Error::Redis`] where it is not one.
///
/// ```
/// assert!(pg_workflow_client::relay::redis_client("redis://127.0.0.1:6379").is_ok());
/// assert!(pg_workflow_client::relay::redis_client("http://example.org").is_err());
/// ```
pub fn redis_client(url: &str) -> Result<redis::Client, Error> {
    // Nagle's algorithm, on by default here, would hold an event back until the one before it is acknowledged.
    let tcp = TcpSettings::default().set_nodelay(true);
    Ok(redis::Client::open(url.into_connection_info()?.set_tcp_settings(tcp))?)
}

/// Relays until `shutdown`, then finishes the batch in hand. Waits for servers that are away, and says so once.
///
/// ```no_run
/// use pg_workflow_client::{connect, relay};
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), pg_workflow_client::Error> {
/// let database = connect::config("postgres://postgres@127.0.0.1/workflow")?;
/// let redis = relay::redis_client("redis://127.0.0.1:6379")?;
/// let options = relay::Options { consumer: "relay".into(), channel: "workflow:events".into() };
/// relay::run(&database, &redis, &options, CancellationToken::new()).await;
/// # Ok(())
/// # }
/// ```
pub async fn run(database: &Config, redis: &redis::Client, options: &Options, shutdown: CancellationToken) {
    let (consumer, channel, to) = (&options.consumer, &options.channel, redis.get_connection_info().addr());
    tracing::info!("relaying events as consumer \"{consumer}\" to channel \"{channel}\" of Redis at {to}");
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = relay_through_outages(database, redis, options, &shutdown) => (),
        () = too_late => tracing::warn!("relay stopped within a batch; its events will be published again"),
    }
}

async fn relay_through_outages(
    database: &Config,
    redis: &redis::Client,
    options: &Options,
    shutdown: &CancellationToken,
) {
    let mut status = Status { postgres: Outage::of("PostgreSQL"), redis: Outage::of("Redis"), backoff: Backoff::new() };
    loop {
        let relay = shutdown.run_until_cancelled(Relay::open(database, redis, options, &mut status)).await;
        let ended = match relay {
            Some(Ok(mut relay)) => relay.run(&mut status, shutdown).await,
            Some(Err(error)) => Err(error),
            None => return,
        };
        match ended {
            Ok(()) => return,
            Err(error @ Error::Redis(_)) => status.redis.began(&error),
            Err(error) => status.postgres.began(&error),
        }
        if shutdown.run_until_cancelled(status.backoff.wait()).await.is_none() {
            return;
        }
    }
}

/// What outlives a connection.
struct Status {
    postgres: Outage,
    redis: Outage,
    backoff: Backoff,
}

/// The two connections. When either fails, both are made anew: the feed begins again after the last acknowledgement.
struct Relay<'a> {
    feed: Feed,
    redis: MultiplexedConnection,
    channel: &'a str,
}

impl<'a> Relay<'a> {
    async fn open(
        database: &Config,
        redis: &redis::Client,
        options: &'a Options,
        status: &mut Status,
    ) -> Result<Relay<'a>, Error> {
        let feed = Feed::open(database, &options.consumer).await?;
        status.postgres.ended();
        let redis = connect_redis(redis, REDIS_CONNECT_TIMEOUT, REDIS_TIMEOUT).await?;
        Ok(Relay { feed, redis, channel: &options.channel })
    }

    async fn run(&mut self, status: &mut Status, shutdown: &CancellationToken) -> Result<(), Error> {
        let mut heard = false;
        let mut published = None;
        loop {
            published = self.pass_on_batch(published).await?;
            if published.is_none() && !heard {
                ping(&mut self.redis).await?;
            }
            status.redis.ended();
            status.backoff.reset();
            if shutdown.is_cancelled() {
                return match published {
                    Some(last) => self.feed.ack(last).await,
                    None => Ok(()),
                };
            }
            if published.is_none() {
                heard = shutdown.run_until_cancelled(self.feed.wait(POLL)).await.unwrap_or(true);
            }
        }
    }

    /// Acknowledges the last batch and publishes the next; returns the id of its last event.
    async fn pass_on_batch(&mut self, published: Option<i64>) -> Result<Option<i64>, Error> {
        let Some(last) = published else {
            let events = self.feed.read(BATCH).await?;
            return publish(&mut self.redis, self.channel, events).await;
        };
        // One round trip: the driver sends both, and the server answers them in this order.
        let (acknowledged, events) = future::join(self.feed.ack(last), self.feed.read(BATCH)).await;
        acknowledged?;
        publish(&mut self.redis, self.channel, events?).await
    }
}

/// Publishes every event and returns the id of the last.
async fn publish(
    redis: &mut MultiplexedConnection,
    channel: &str,
    events: impl Stream<Item = Result<Event, Error>>,
) -> Result<Option<i64>, Error> {
    let mut events = std::pin::pin!(events);
    let mut chunk = Pipeline::new();
    let mut bytes = 0;
    let mut last = None;
    while let Some(event) = next(&mut events).await? {
        let json = serde_json::to_vec(&event)?;
        bytes += json.len();
        chunk.publish(channel, json);
        last = Some(event.id);
        if bytes >= CHUNK_BYTES {
            send(redis, &mut chunk).await?;
            bytes = 0;
        }
    }
    send(redis, &mut chunk).await?;
    Ok(last)
}

async fn next(events: &mut (impl Stream<Item = Result<Event, Error>> + Unpin)) -> Result<Option<Event>, Error> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, events.try_next()).await {
        Ok(event) => event,
        Err(_) => Err(Error::Timeout(STATEMENT_TIMEOUT)),
    }
}

async fn send(redis: &mut MultiplexedConnection, chunk: &mut Pipeline) -> Result<(), Error> {
    if !chunk.is_empty() {
        // One reply a command; the first that is an error fails the query, and the whole batch is published again.
        let _receivers: Vec<u64> = chunk.query_async(redis).await?;
        chunk.clear();
    }
    Ok(())
}

/// Connects to Redis; `answer` is the time limit of each command from then on.
pub(crate) async fn connect_redis(
    redis: &redis::Client,
    connect: Duration,
    answer: Duration,
) -> Result<MultiplexedConnection, Error> {
    let limits = AsyncConnectionConfig::new().set_connection_timeout(Some(connect)).set_response_timeout(Some(answer));
    Ok(redis.get_multiplexed_async_connection_with_config(&limits).await?)
}

pub(crate) async fn ping(redis: &mut MultiplexedConnection) -> Result<(), Error> {
    Ok(redis::cmd("PING").query_async(redis).await?)
}
