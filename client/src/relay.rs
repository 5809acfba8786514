//! The relay: every event of the feed goes to a [publisher](crate::publisher), for example a Redis stream and the channel
//! beside it: once into a store that can tell where it ends, else at least once.
//!
//! It adds to such a store only behind what it believes to be the last event there; the store itself compares and adds in
//! one step. Whenever that is not the last (another relay has written, an answer was lost, Redis came back with less than
//! it had), nothing is written, and the relay compares: it takes its consumer back to the last checkpoint that is not
//! beyond the store's end, asks the store what it holds after that, and leaves those events out from then on.
//!
//! Of several relays of one consumer one works, by a lease in the database that each of its reads renews. The others
//! stand by.

mod status;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Error;
use crate::connect::PostgresServer;
use crate::feed::Feed;
use crate::outage::{Backoff, Outage};
use crate::publisher::{Position, Publisher};
use writer::{Ended, Writer};

pub use status::{Role, State, Status};

/// How long the lease holds without a read, and how often others try to take it: with what it takes them to begin, less
/// than 5 s.
const LEASE: Duration = Duration::from_secs(3);
const STAND_BY: Duration = Duration::from_millis(500);
/// How long a batch may take to be finished once the relay is told to stop.
const GRACE: Duration = Duration::from_secs(3);
/// For each call of the publisher: one that hangs counts as an outage.
const PUBLISHER_TIMEOUT: Duration = Duration::from_secs(30);

/// Relays until `shutdown`, then finishes the batch in hand. Waits for servers that are away, and says so once.
///
/// `consumer` is the name under which the database keeps the relay's place in the feed. It is created where it does not
/// exist, and begins with what commits from then on. Relays of the same name take turns.
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
    let mut relay = Relay { database, consumer, publisher, shutdown: &shutdown, holder: holder(), log };
    tokio::select! {
        () = relay.through_outages() => (),
        () = too_late => tracing::warn!("relay stopped within a batch; whoever relays next compares and goes on"),
    }
}

/// Which side an error came from.
enum Failure {
    Feed(Error),
    Publisher(Error),
}

/// Of the feed, unless it is said otherwise.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Feed(error)
    }
}

/// A call of the publisher, with its time limit.
async fn publishing<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let too_late = |_| Err(Error::publisher(format!("no answer within {} s", PUBLISHER_TIMEOUT.as_secs())));
    tokio::time::timeout(PUBLISHER_TIMEOUT, call).await.unwrap_or_else(too_late).map_err(Failure::Publisher)
}

/// Who we are, for people, and for the database to know us again when we come back on another connection.
fn holder() -> String {
    let host = gethostname::gethostname();
    let id = Uuid::now_v7().simple().to_string();
    format!("workflow-server on {}, process {} ({})", host.to_string_lossy(), std::process::id(), &id[24..])
}

/// What outlives a connection.
struct Relay<'a, P> {
    database: &'a PostgresServer,
    consumer: &'a str,
    publisher: &'a mut P,
    shutdown: &'a CancellationToken,
    holder: String,
    log: Log,
}

/// What people are told, on standard error and over HTTP.
struct Log {
    status: Arc<Status>,
    postgres: Outage,
    publisher: Outage,
    /// Redis answers, but with an error: that it answers does not mean that it takes events again.
    redis_refuses: bool,
    backoff: Backoff,
}

impl Log {
    fn new(publisher: &str, status: Arc<Status>) -> Log {
        let (postgres, publisher) = (Outage::of("PostgreSQL"), Outage::of(publisher));
        Log { status, postgres, publisher, redis_refuses: false, backoff: Backoff::new() }
    }

    fn failed(&mut self, failure: &Failure) {
        self.status.update(|state| state.role = Role::Starting);
        match failure {
            Failure::Publisher(error) => {
                self.redis_refuses = refuses(error);
                self.publisher.began(error);
                self.status.update(|state| state.publisher_error = Some(said(error)));
            }
            // Not an outage: we were too slow to renew the lease.
            Failure::Feed(Error::Leased { .. }) => tracing::info!("another relay has taken over"),
            Failure::Feed(error) => {
                self.postgres.began(error);
                self.status.update(|state| state.postgres_error = Some(said(error)));
            }
        }
    }

    fn postgres_answers(&mut self) {
        self.postgres.ended();
        self.status.update(|state| state.postgres_error = None);
    }

    fn publisher_answers(&mut self) {
        if !self.redis_refuses {
            self.publisher_takes_events();
        }
    }

    fn publisher_takes_events(&mut self) {
        self.redis_refuses = false;
        self.publisher.ended();
        self.backoff.reset();
        self.status.update(|state| state.publisher_error = None);
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

fn said(error: &Error) -> String {
    format!("{error}. {}", error.hint())
}

#[cfg(feature = "redis")]
fn refuses(error: &Error) -> bool {
    matches!(error, Error::Redis(cause) if cause.code().is_some())
}

#[cfg(not(feature = "redis"))]
fn refuses(_: &Error) -> bool {
    false
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

    /// With connections of its own, until one of them fails or it is time to stop.
    async fn relay(&mut self) -> Result<(), Failure> {
        let shutdown = self.shutdown;
        let Some(opened) = shutdown.run_until_cancelled(self.open()).await else { return Ok(()) };
        let mut feed = opened?;
        let Some(leased) = shutdown.run_until_cancelled(self.stand_by(&mut feed)).await else { return Ok(()) };
        leased?;
        self.log.role(Role::Leader);
        let ended = self.lead(&feed).await;
        // So that nobody, ourselves included, has to wait for its end. If that fails the connection does not work.
        let released = feed.release().await;
        ended.and(released.map_err(Failure::Feed))
    }

    async fn open(&mut self) -> Result<Feed, Failure> {
        let feed = Feed::open(self.database, self.consumer).await?;
        self.log.postgres_answers();
        publishing(self.publisher.connect()).await?;
        Ok(feed)
    }

    /// Waits until the lease is ours.
    async fn stand_by(&mut self, feed: &mut Feed) -> Result<(), Failure> {
        while !feed.lease(&self.holder, LEASE).await? {
            publishing(self.publisher.check()).await?;
            self.log.publisher_answers();
            self.log.role(Role::Standby);
            tokio::time::sleep(STAND_BY).await;
        }
        Ok(())
    }

    /// Relays for as long as it has the lease; anew from where the store ends, whenever that is not where it should.
    async fn lead(&mut self, feed: &Feed) -> Result<(), Failure> {
        loop {
            let mut writer = Writer::begin(feed, self.publisher).await?;
            self.log.status.update(|state| state.comparisons += 1);
            match writer.run(feed, self.publisher, &mut self.log, self.shutdown).await? {
                Ended::Told => return Ok(()),
                Ended::StoreEndsAt(end) => {
                    let name = self.publisher.name();
                    let (end, expected) = (Shown(Some(end)), Shown(writer.last));
                    tracing::info!("{name} ends at {end} rather than {expected}: comparing it with the database");
                }
            }
        }
    }
}

/// A position as the ids of a Redis stream are written.
struct Shown(Option<Position>);

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some([first, second]) => write!(out, "{first}-{second}"),
            None => out.write_str("an unknown position"),
        }
    }
}
