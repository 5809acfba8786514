//! The relay: every event of the feed goes to Redis, once into a stream and at least once to a channel's subscribers.
//!
//! It appends to the stream only behind the entry that it believes to be the last; Redis itself compares, adds and
//! publishes in one step. Whenever that is not the last entry (another relay has written, an answer was lost, Redis
//! came back with less than it had), nothing is written, and the relay compares: it takes its consumer back to the last
//! checkpoint that is not beyond the stream's end, reads from the stream what came after that, and leaves those events
//! out from then on.
//!
//! Of several relays of one consumer one works, by a lease in the database that each of its reads renews. The others
//! stand by.

mod status;
mod stream;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionLike;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Error;
use crate::connect::PostgresServer;
use crate::feed::Feed;
use crate::outage::{Backoff, Outage};
use crate::redis_server::{RedisConnection, RedisServer};
use stream::EventStream;
use writer::{Ended, Writer};

pub use status::{Role, State, Status};

/// How long the lease holds without a read, and how often others try to take it: with what it takes them to begin, less
/// than 5 s.
const LEASE: Duration = Duration::from_secs(3);
const STAND_BY: Duration = Duration::from_millis(500);
/// How long a batch may take to be finished once the relay is told to stop.
const GRACE: Duration = Duration::from_secs(3);
const REDIS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A hung Redis counts as an outage. What became of the commands is unknown then; the stream will tell.
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);

/// What to relay, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name under which the database keeps the relay's place in the feed. Relays of the same name take turns.
    pub consumer: String,
    /// The channel to publish in.
    pub channel: String,
    /// The stream to append to.
    pub stream: String,
    /// How many entries the stream keeps, at least; 0: all.
    pub max_length: u64,
    /// Entries younger than this stay, however many there are.
    pub min_age: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            consumer: "relay".to_owned(),
            channel: "workflow:events".to_owned(),
            stream: "workflow:stream".to_owned(),
            max_length: 1_000_000,
            min_age: Duration::from_secs(600),
        }
    }
}

/// Relays until `shutdown`, then finishes the batch in hand. Waits for servers that are away, and says so once.
///
/// ```no_run
/// use std::sync::Arc;
/// use pg_workflow_client::{connect::PostgresServer, redis_server::RedisServer, relay};
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), pg_workflow_client::Error> {
/// let database = PostgresServer::parse("postgres://postgres@127.0.0.1/workflow")?;
/// let redis = RedisServer::parse("redis://127.0.0.1:6379")?;
/// let status = Arc::new(relay::Status::default());
/// relay::run(&database, &redis, &relay::Options::default(), status, CancellationToken::new()).await;
/// # Ok(())
/// # }
/// ```
pub async fn run(
    database: &PostgresServer,
    redis: &RedisServer,
    options: &Options,
    status: Arc<Status>,
    shutdown: CancellationToken,
) {
    let Options { consumer, channel, stream, .. } = options;
    tracing::info!(
        "relaying events as consumer \"{consumer}\" to stream \"{stream}\" and channel \"{channel}\" of Redis at {redis}"
    );
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let mut relay = Relay { database, redis, options, shutdown: &shutdown, holder: holder(), log: Log::new(status) };
    tokio::select! {
        () = relay.through_outages() => (),
        () = too_late => tracing::warn!("relay stopped within a batch; whoever relays next compares and goes on"),
    }
}

/// Who we are, for people, and for the database to know us again when we come back on another connection.
fn holder() -> String {
    let host = gethostname::gethostname();
    let id = Uuid::now_v7().simple().to_string();
    format!("workflow-server on {}, process {} ({})", host.to_string_lossy(), std::process::id(), &id[24..])
}

/// What outlives a connection.
struct Relay<'a> {
    database: &'a PostgresServer,
    redis: &'a RedisServer,
    options: &'a Options,
    shutdown: &'a CancellationToken,
    holder: String,
    log: Log,
}

/// What people are told, on standard error and over HTTP.
struct Log {
    status: Arc<Status>,
    postgres: Outage,
    redis: Outage,
    /// Redis answers, but with an error: that it answers does not mean that it takes events again.
    redis_refuses: bool,
    backoff: Backoff,
}

impl Log {
    fn new(status: Arc<Status>) -> Log {
        let (postgres, redis) = (Outage::of("PostgreSQL"), Outage::of("Redis"));
        Log { status, postgres, redis, redis_refuses: false, backoff: Backoff::new() }
    }

    fn failed(&mut self, error: &Error) {
        self.status.update(|state| state.role = Role::Starting);
        let said = format!("{error}. {}", error.advice());
        if let Error::Redis(cause) = error {
            self.redis_refuses = cause.code().is_some();
            self.redis.began(error);
            self.status.update(|state| state.redis_error = Some(said));
        } else if matches!(error, Error::Leased { .. }) {
            // Not an outage: we were too slow to renew the lease.
            tracing::info!("another relay has taken over");
        } else {
            self.postgres.began(error);
            self.status.update(|state| state.postgres_error = Some(said));
        }
    }

    fn postgres_answers(&mut self) {
        self.postgres.ended();
        self.status.update(|state| state.postgres_error = None);
    }

    fn redis_answers(&mut self) {
        if !self.redis_refuses {
            self.redis_takes_events();
        }
    }

    fn redis_takes_events(&mut self) {
        self.redis_refuses = false;
        self.redis.ended();
        self.backoff.reset();
        self.status.update(|state| state.redis_error = None);
    }

    fn role(&self, role: Role) {
        if self.status.get().role != role {
            tracing::info!(
                "{}",
                if role == Role::Leader { "this relay works" } else { "another relay works: standing by" }
            );
            self.status.update(|state| state.role = role);
        }
    }
}

impl Relay<'_> {
    async fn through_outages(&mut self) {
        loop {
            let Err(error) = self.relay().await else { return };
            self.log.failed(&error);
            if self.shutdown.run_until_cancelled(self.log.backoff.wait()).await.is_none() {
                return;
            }
        }
    }

    /// With connections of its own, until one of them fails or it is time to stop.
    async fn relay(&mut self) -> Result<(), Error> {
        let Some(opened) = self.shutdown.run_until_cancelled(self.open()).await else { return Ok(()) };
        let (mut feed, mut stream) = opened?;
        let Some(leased) =
            self.shutdown.run_until_cancelled(stand_by(&mut feed, &mut stream, &self.holder, &mut self.log)).await
        else {
            return Ok(());
        };
        leased?;
        self.log.role(Role::Leader);
        let ended = self.lead(&feed, &mut stream).await;
        // So that nobody, ourselves included, has to wait for its end. If that fails the connection does not work.
        let released = feed.release().await;
        ended.and(released)
    }

    async fn open(&mut self) -> Result<(Feed, EventStream<RedisConnection>), Error> {
        let feed = Feed::open(self.database, &self.options.consumer).await?;
        self.log.postgres_answers();
        let redis = self.redis.connect(REDIS_CONNECT_TIMEOUT, REDIS_TIMEOUT).await?;
        Ok((feed, EventStream::new(redis, &self.options.stream, &self.options.channel)))
    }

    /// Relays for as long as it has the lease; anew from where the stream ends, whenever that is not where it should.
    async fn lead<C: ConnectionLike>(&mut self, feed: &Feed, stream: &mut EventStream<C>) -> Result<(), Error> {
        loop {
            let mut writer = Writer::begin(feed, stream).await?;
            self.log.status.update(|state| state.comparisons += 1);
            match writer.run(feed, stream, self.options, &mut self.log, self.shutdown).await? {
                Ended::Told => return Ok(()),
                Ended::StreamEndsAt(id) => {
                    let last = writer.last;
                    tracing::info!("the stream ends at {id} rather than {last}: comparing it with the database");
                }
            }
        }
    }
}

/// Waits until the lease is ours.
async fn stand_by<C: ConnectionLike>(
    feed: &mut Feed,
    stream: &mut EventStream<C>,
    holder: &str,
    log: &mut Log,
) -> Result<(), Error> {
    while !feed.lease(holder, LEASE).await? {
        stream.check().await?;
        log.redis_answers();
        log.role(Role::Standby);
        tokio::time::sleep(STAND_BY).await;
    }
    Ok(())
}
