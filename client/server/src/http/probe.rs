//! Background checks of PostgreSQL and Redis, and counts of backlogs, for `/health` and `/metrics`: no request opens a
//! connection.

mod counts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use pg_workflow_client::connect::{Client, PostgresServer};
use pg_workflow_client::outage::Outage;
use pg_workflow_client::redis_server::RedisConnection;
use pg_workflow_client::session;
use pg_workflow_client::{Error, Queue};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::Backends;
use counts::{ROW_INTERVAL, count_again_and_again, count_feed, count_lag, count_queues, count_states};

pub use counts::{FeedCounts, Lag, States};

/// Interval of the checks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of a check: a server that hangs counts as unavailable.
const LIMIT: Duration = Duration::from_millis(1500);

/// Not "SELECT 1": the server needs the extension.
const VERSION: &str = "SELECT workflow.version()";

/// The results of the last checks.
pub struct Probe {
    database: Results<Option<Standby>>,
    redis: Results<()>,
    lag: watch::Receiver<Option<Lag>>,
    queues: watch::Receiver<Option<Arc<Vec<Queue>>>>,
    states: watch::Receiver<Option<Arc<States>>>,
    feed: watch::Receiver<Option<Arc<FeedCounts>>>,
    began: Instant,
}

type Results<T> = watch::Receiver<Option<Arc<Check<T>>>>;

/// The result of checking a server.
pub struct Check<T> {
    pub at: Instant,
    pub result: Result<T, Failure>,
}

/// Why a server is unavailable.
#[derive(Clone)]
pub struct Failure {
    /// The error, which can name hosts, databases and roles.
    pub full: String,
    /// The same without names, for anonymous clients.
    pub anonymous: String,
}

/// The replay of a standby.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub struct Standby {
    /// False after it was promoted.
    pub in_recovery: bool,
    /// Time of the last replayed commit, by the clock of the primary. It is old, too, if the primary is idle. Null if the
    /// standby has replayed none since it started.
    pub last_commit: Option<DateTime<Utc>>,
}

impl Probe {
    /// Checks until `shutdown`.
    pub fn start(backends: Arc<Backends>, shutdown: CancellationToken) -> Probe {
        let (database, seen_database) = watch::channel(None);
        let (redis, seen_redis) = watch::channel(None);
        let (lag, seen_lag) = watch::channel(None);
        let (queues, seen_queues) = watch::channel(None);
        let (states, seen_states) = watch::channel(None);
        let (feed, seen_feed) = watch::channel(None);
        let of_database = DatabaseCheck { backends: backends.clone(), link: Link::Closed, reader: Link::Closed };
        let of_redis = RedisCheck { backends: backends.clone(), connection: None };
        tokio::spawn(async move {
            let checking_database = check_again_and_again("the database for /health", of_database, &database);
            let checking_redis = check_again_and_again("the Redis for /health", of_redis, &redis);
            let (lag, queues, states, feed) = (&lag, &queues, &states, &feed);
            let relay = backends.relay.as_ref();
            let counting_lag = async {
                let Some(relay) = relay else { return };
                count_again_and_again(&backends.database, INTERVAL, feed, |client| {
                    Box::pin(async move {
                        if let Some(counted) = count_lag(client.clone(), &relay.consumer).await? {
                            lag.send_replace(Some(counted));
                        }
                        let is_due = feed
                            .borrow()
                            .as_ref()
                            .is_none_or(|last: &Arc<FeedCounts>| last.at.elapsed() >= ROW_INTERVAL);
                        if is_due { count_feed(client).await.map(Some) } else { Ok(None) }
                    })
                })
                .await;
            };
            // A consumer far behind takes long to count. If there is a relay, it does not hold up the queues.
            let counting_rows = count_again_and_again(backends.reader(), ROW_INTERVAL, feed, |client| {
                Box::pin(async move {
                    if let Some(counted) = count_queues(client.clone()).await? {
                        queues.send_replace(Some(counted));
                    }
                    if let Some(counted) = count_states(client.clone()).await? {
                        states.send_replace(Some(counted));
                    }
                    if relay.is_none() { count_feed(client).await.map(Some) } else { Ok(None) }
                })
            });
            let all = async { tokio::join!(checking_database, checking_redis, counting_lag, counting_rows) };
            shutdown.run_until_cancelled(all).await;
        });
        let (lag, queues, states, feed) = (seen_lag, seen_queues, seen_states, seen_feed);
        Probe { database: seen_database, redis: seen_redis, lag, queues, states, feed, began: Instant::now() }
    }

    /// Waits for the first checks, for a limited time.
    pub async fn first_checks(&self) {
        tokio::join!(wait_for_first(&self.database), wait_for_first(&self.redis));
    }

    /// Returns the result of the last check of the database; `None` before the first one.
    pub fn database(&self) -> Option<Arc<Check<Option<Standby>>>> {
        self.database.borrow().clone()
    }

    /// The same for Redis.
    pub fn redis(&self) -> Option<Arc<Check<()>>> {
        self.redis.borrow().clone()
    }

    /// Returns the lag as it was last counted; `None` before that, or if the role may not read it.
    pub fn lag(&self) -> Option<Lag> {
        *self.lag.borrow()
    }

    /// Returns the time since the lag was counted, or since the start.
    pub fn lag_age(&self) -> Duration {
        self.lag().map_or(self.began, |lag| lag.at).elapsed()
    }

    /// Returns the queues as they were last counted; `None` as for the lag, or if the database has none.
    pub fn queues(&self) -> Option<Arc<Vec<Queue>>> {
        self.queues.borrow().clone()
    }

    /// Returns the states as they were last counted; `None` as for the queues.
    pub fn states(&self) -> Option<Arc<States>> {
        self.states.borrow().clone()
    }

    /// Returns consumers and partitions as they were last counted; `None` as for the queues.
    pub fn feed(&self) -> Option<Arc<FeedCounts>> {
        self.feed.borrow().clone()
    }
}

impl Failure {
    fn of(error: &Error) -> Failure {
        let (hint, code) = (error.hint(), error.code().map(|code| format!(" ({})", code.code())));
        let anonymous = format!("unavailable{}. {hint}", code.unwrap_or_default());
        Failure { full: format!("{error}. {hint}"), anonymous }
    }
}

async fn wait_for_first<T>(results: &Results<T>) {
    let mut results = results.clone();
    // Without one in time there is no result, which counts as a failure.
    let _ = tokio::time::timeout(LIMIT * 2, results.wait_for(Option::is_some)).await;
}

/// Asks a server, on a connection that it keeps.
trait ServerCheck {
    type Found;
    fn check(&mut self) -> impl Future<Output = Result<Self::Found, Error>> + Send;
}

/// Checks a server, once at a time: the next check begins when the last one has ended.
async fn check_again_and_again<C: ServerCheck>(
    server: &str,
    mut check: C,
    results: &watch::Sender<Option<Arc<Check<C::Found>>>>,
) {
    let mut outage = Outage::of(server);
    // Logs the beginning and the end of an outage: anonymous clients do not get its cause.
    let mut publish = |at: Instant, result: Result<C::Found, Error>| {
        match &result {
            Ok(_) => outage.ended(),
            Err(error) => outage.began(error),
        }
        let result = result.map_err(|error| Failure::of(&error));
        results.send_replace(Some(Arc::new(Check { at, result })));
    };
    loop {
        let at = Instant::now();
        let result = tokio::time::timeout(LIMIT, check.check()).await;
        publish(at, result.unwrap_or(Err(Error::Timeout(LIMIT))));
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The connection of a check.
#[derive(Default)]
enum Link {
    #[default]
    Closed,
    /// The attempt outlives the check: a server that hangs would keep a connection of each attempt.
    Opening(BoxFuture<'static, Result<Client, Error>>),
    Open(Client),
}

impl Link {
    /// Takes the connection. A check that is dropped drops it, which ends its statement.
    async fn take(&mut self, server: &PostgresServer) -> Result<Client, Error> {
        let attempt = match std::mem::take(self) {
            Link::Open(client) if client.is_open() => return Ok(client),
            Link::Opening(attempt) => attempt,
            Link::Open(_) | Link::Closed => {
                let server = server.clone();
                Box::pin(async move { connect(&server).await })
            }
        };
        *self = Link::Opening(attempt);
        let Link::Opening(attempt) = self else { unreachable!("just stored") };
        let opened = attempt.await;
        *self = Link::Closed;
        opened
    }
}

struct DatabaseCheck {
    backends: Arc<Backends>,
    link: Link,
    /// With a role of its own for requests.
    reader: Link,
}

impl ServerCheck for DatabaseCheck {
    type Found = Option<Standby>;

    async fn check(&mut self) -> Result<Option<Standby>, Error> {
        let client = self.link.take(&self.backends.database).await?;
        session::once(&client, VERSION, &[]).await?;
        let mut standby = None;
        if self.backends.is_standby {
            let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_xact_replay_timestamp()";
            for row in session::once(&client, sql, &[]).await? {
                standby = Some(Standby { in_recovery: row.try_get(0)?, last_commit: row.try_get(1)? });
            }
        }
        self.link = Link::Open(client);
        if let Some(server) = &self.backends.reader {
            let client = self.reader.take(server).await?;
            session::once(&client, VERSION, &[]).await?;
            self.reader = Link::Open(client);
        }
        Ok(standby)
    }
}

/// Opens a connection as those of the requests are, whose statement ends when it is dropped.
async fn connect(server: &PostgresServer) -> Result<Client, Error> {
    server.clone().with_fixed_settings().with_read_only_transactions().with_cancellation().connect().await
}

struct RedisCheck {
    backends: Arc<Backends>,
    connection: Option<RedisConnection>,
}

impl ServerCheck for RedisCheck {
    type Found = ();

    async fn check(&mut self) -> Result<(), Error> {
        let Some(server) = &self.backends.redis else { return Ok(()) };
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => server.connect(LIMIT / 2, LIMIT).await?,
        };
        let () = pg_workflow_client::redis::cmd("PING").query_async(&mut connection).await?;
        self.connection = Some(connection);
        Ok(())
    }
}
