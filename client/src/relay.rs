//! The relay: writes every event of the feed to a [publisher](crate::publisher), for example a Redis stream.
//!
//! A destination that knows its end holds each event exactly once: the relay appends only after the entry that it
//! believes to be the last, and the destination compares and appends in one step. If the end has moved (another relay
//! wrote, a response was lost, Redis lost data), nothing is written. The relay then returns to the last relay checkpoint
//! that is not after the destination's end, asks for the events that the destination holds after it, and skips those.
//! An event is known by its content: a restored or promoted database reuses ids. Other destinations get each event at
//! least once.
//!
//! Of several relays with the same consumer one leads, by a lease in the database that each of its reads renews. The
//! others are standbys.

mod log;
mod status;
mod unrest;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Error;
use crate::connect::PostgresServer;
use crate::feed::Feed;
use crate::publisher::{Position, Publisher};
use log::Log;
use writer::{BATCH, Ended, Writer};

pub use status::{BatchSizes, Role, State, Status};

/// The lease expires after this time without a read, and standbys try to acquire it this often: a standby takes over
/// within 5 s, the time to begin included.
const LEASE: Duration = Duration::from_secs(3);
const STANDBY_INTERVAL: Duration = Duration::from_millis(500);
/// Time to finish a batch after the relay is told to stop.
const GRACE: Duration = Duration::from_secs(3);
/// Time limit of each call of the publisher: one that hangs counts as an outage.
const PUBLISHER_TIMEOUT: Duration = Duration::from_secs(30);
/// A call that publishes may take longer by the time that the events need at this rate, in bytes a second.
const SLOWEST_RATE: f64 = 1_048_576.0;

/// Relays events until `shutdown`, then finishes the batch in progress.
///
/// Waits for servers that are unavailable, and logs each outage once. `consumer` is the name under which the database
/// stores the relay's position in the feed. The consumer is created if it does not exist, and begins with the events
/// committed from then on. A consumer that vanishes is not created again: the relay waits, and its status says so. Of
/// several relays with the same name one leads.
///
/// ```no_run
/// use std::sync::Arc;
/// use pg_workflow_client::publisher::{RedisStream, StreamOptions};
/// use pg_workflow_client::{connect::PostgresServer, redis_server::RedisServer, relay};
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), pg_workflow_client::Error> {
/// let database = PostgresServer::parse("postgres://postgres@127.0.0.1/workflow")?;
/// let redis = RedisServer::parse("redis://127.0.0.1:6379")?;
/// let mut stream = RedisStream::new(redis, StreamOptions::default());
/// let status = Arc::new(relay::Status::default());
/// tokio::spawn(async move {
///     relay::run(&database, "relay", &mut stream, status, CancellationToken::new()).await;
/// });
/// # Ok(())
/// # }
/// ```
pub async fn run<P: Publisher>(
    database: &PostgresServer,
    consumer: &str,
    publisher: &mut P,
    status: Arc<Status>,
    shutdown: CancellationToken,
) {
    tracing::info!("relaying events as consumer \"{consumer}\" to {}", publisher.describe());
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let log = Log::new(&publisher.name(), status);
    let (is_known, shutdown) = (false, &shutdown);
    let mut relay = Relay { database, consumer, is_known, publisher, shutdown, holder: holder(), log };
    tokio::select! {
        () = relay.through_outages() => (),
        () = too_late => tracing::warn!("relay stopped within a batch; the next leader compares and continues"),
    }
}

/// The side that an error came from.
enum Failure {
    Feed(Error),
    Publisher(Error),
}

/// An error comes from the feed, unless a call of the publisher says otherwise.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Feed(error)
    }
}

/// Awaits a call of the publisher, up to its time limit.
async fn publishing<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    publishing_bytes(0, call).await
}

/// Awaits a call of the publisher that takes so many bytes.
async fn publishing_bytes<T>(bytes: usize, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let limit = PUBLISHER_TIMEOUT + Duration::from_secs_f64(bytes as f64 / SLOWEST_RATE);
    let too_late = |_| Err(Error::publisher(format!("no response within {} s", limit.as_secs())));
    tokio::time::timeout(limit, call).await.unwrap_or_else(too_late).map_err(Failure::Publisher)
}

/// Names this relay, for people, and for the database to recognize it on another connection.
fn holder() -> String {
    let host = gethostname::gethostname();
    let id = Uuid::now_v7().simple().to_string();
    format!("workflow-server on {}, process {} ({})", host.to_string_lossy(), std::process::id(), &id[24..])
}

/// The parts of a relay that outlive a connection.
struct Relay<'a, P> {
    database: &'a PostgresServer,
    consumer: &'a str,
    /// The consumer has existed. If it no longer does, a new one would skip events.
    is_known: bool,
    publisher: &'a mut P,
    shutdown: &'a CancellationToken,
    holder: String,
    log: Log,
}

impl<P: Publisher> Relay<'_, P> {
    async fn through_outages(&mut self) {
        loop {
            let Err(failure) = self.relay().await else { return };
            self.log.failed(&failure);
            if self.shutdown.run_until_cancelled(self.log.backoff.wait()).await.is_none() {
                return;
            }
        }
    }

    /// Relays on connections of its own until one of them fails or `shutdown`.
    async fn relay(&mut self) -> Result<(), Failure> {
        let shutdown = self.shutdown;
        let Some(opened) = shutdown.run_until_cancelled(self.open()).await else { return Ok(()) };
        let mut feed = opened?;
        let Some(leased) = shutdown.run_until_cancelled(self.wait_for_lease(&mut feed)).await else { return Ok(()) };
        leased?;
        self.log.set_role(Role::Leader);
        let ended = self.lead(&feed).await;
        // So that no relay, this one included, waits until it expires. If this fails, the connection is broken.
        let released = feed.release().await;
        ended.and(released.map_err(Failure::Feed))
    }

    async fn open(&mut self) -> Result<Feed, Failure> {
        let feed = match self.is_known {
            true => Feed::reopen(self.database, self.consumer).await?,
            false => Feed::open(self.database, self.consumer).await?,
        };
        self.is_known = true;
        let source = feed.source().await?;
        self.log.postgres_responds();
        publishing(self.publisher.connect()).await?;
        publishing(self.publisher.begin(&source)).await?;
        Ok(feed)
    }

    /// Waits until this relay holds the lease.
    async fn wait_for_lease(&mut self, feed: &mut Feed) -> Result<(), Failure> {
        let began = Instant::now();
        while !feed.lease(&self.holder, LEASE).await? {
            publishing(self.publisher.check()).await?;
            self.log.publisher_responds();
            // A leader that is rejected releases the lease at once: this one is not.
            if began.elapsed() > LEASE {
                self.log.postgres_delivers();
                self.log.publisher_accepts_events();
            }
            self.log.set_role(Role::Standby);
            tokio::time::sleep(STANDBY_INTERVAL).await;
        }
        Ok(())
    }

    /// Relays while it holds the lease; compares again each time the destination ends elsewhere than expected. If an event
    /// of a batch cannot be read, it relays one by one, up to that event.
    async fn lead(&mut self, feed: &Feed) -> Result<(), Failure> {
        let mut batch = BATCH;
        loop {
            let mut writer = Writer::begin(feed, self.publisher, batch).await?;
            self.log.count_comparison();
            match writer.run(feed, self.publisher, &mut self.log, self.shutdown).await? {
                Ended::Stopped => return Ok(()),
                Ended::DestinationEndsAt(end) => {
                    let name = self.publisher.name();
                    let (end, expected) = (Shown(Some(end)), Shown(writer.last));
                    tracing::info!("{name} ends at {end}, expected {expected}; comparing it with the database");
                    let pause = self.log.destination_moved();
                    if self.shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Ok(());
                    }
                }
                Ended::RowFailed => batch = 1,
            }
        }
    }
}

/// A position in the format of a Redis stream's ids.
struct Shown(Option<Position>);

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some([first, second]) => write!(out, "{first}-{second}"),
            None => out.write_str("an unknown position"),
        }
    }
}
