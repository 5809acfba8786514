//! Background checks of PostgreSQL and Redis, and counts of backlogs, for `/health` and `/metrics`: no request opens a
//! connection.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pg_workflow_client::list::{ListOptions, QueueFilter};
use pg_workflow_client::outage::Outage;
use pg_workflow_client::redis_server::RedisConnection;
use pg_workflow_client::connect::Client;
use pg_workflow_client::tokio_postgres::error::SqlState;
use pg_workflow_client::{Error, Queue, Queues};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::Backends;

/// Interval of the checks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of a check: a server that hangs counts as unavailable.
const LIMIT: Duration = Duration::from_millis(1500);
/// Time limit of counting a backlog.
const COUNT_LIMIT: Duration = Duration::from_secs(120);
/// Interval of counting the tasks of queues.
const QUEUE_INTERVAL: Duration = Duration::from_secs(10);
/// Number of queues that are counted.
const MOST_QUEUES: u32 = 1000;
/// Counting takes at most this part of the time, because a backlog of millions takes seconds.
const COUNT_PAUSE: u32 = 4;

/// The results of the last checks.
pub struct Probe {
    checks: watch::Receiver<Option<Arc<Checks>>>,
    lag: watch::Receiver<Option<Lag>>,
    queues: watch::Receiver<Option<Arc<Vec<Queue>>>>,
}

/// The result of checking PostgreSQL and Redis.
pub struct Checks {
    pub at: Instant,
    /// The replay of the database, if it can be a standby.
    pub database: Result<Option<Standby>, Failure>,
    pub redis: Result<(), Failure>,
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

/// The backlog and the lag of the relay's consumer, as they were last counted.
#[derive(Clone, Copy)]
pub struct Lag {
    pub at: Instant,
    pub events: i64,
    pub seconds: f64,
}

impl Probe {
    /// Checks until `shutdown`.
    pub fn start(backends: Arc<Backends>, shutdown: CancellationToken) -> Probe {
        let (checks, seen_checks) = watch::channel(None);
        let (lag, seen_lag) = watch::channel(None);
        let (queues, seen_queues) = watch::channel(None);
        let checking = Checking::new(backends.clone());
        tokio::spawn(async move {
            let checking = checking.run(&checks);
            let counting = async {
                if let Some(relay) = &backends.relay {
                    let consumer = relay.consumer.as_str();
                    count_again_and_again(&backends, INTERVAL, &lag, |client| Box::pin(count_lag(client, consumer)))
                        .await;
                }
            };
            let counting_queues =
                count_again_and_again(&backends, QUEUE_INTERVAL, &queues, |client| Box::pin(count_queues(client)));
            shutdown.run_until_cancelled(async { tokio::join!(checking, counting, counting_queues) }).await;
        });
        Probe { checks: seen_checks, lag: seen_lag, queues: seen_queues }
    }

    /// Returns the result of the last check, after the first one; `None` if there was none in time.
    pub async fn checks(&self) -> Option<Arc<Checks>> {
        let mut checks = self.checks.clone();
        let first = tokio::time::timeout(LIMIT * 2, checks.wait_for(Option::is_some)).await;
        first.ok()?.ok()?.clone()
    }

    /// Returns the last counted lag; `None` before it was first counted, or if the role may not read it.
    pub fn lag(&self) -> Option<Lag> {
        *self.lag.borrow()
    }

    /// Returns the queues as they were last counted; `None` as for the lag, or if the database has none.
    pub fn queues(&self) -> Option<Arc<Vec<Queue>>> {
        self.queues.borrow().clone()
    }
}

impl Failure {
    fn of(error: &Error) -> Failure {
        let (hint, code) = (error.hint(), error.code().map(|code| format!(" ({})", code.code())));
        let anonymous = format!("unavailable{}. {hint}", code.unwrap_or_default());
        Failure { full: format!("{error}. {hint}"), anonymous }
    }
}

/// The connections of the checks.
struct Checking {
    backends: Arc<Backends>,
    database: Option<Client>,
    redis: Option<RedisConnection>,
    database_outage: Outage,
    redis_outage: Outage,
}

impl Checking {
    fn new(backends: Arc<Backends>) -> Checking {
        let (database_outage, redis_outage) =
            (Outage::of("the database for /health"), Outage::of("the Redis for /health"));
        Checking { backends, database: None, redis: None, database_outage, redis_outage }
    }

    async fn run(mut self, checks: &watch::Sender<Option<Arc<Checks>>>) {
        loop {
            let at = Instant::now();
            let backends = self.backends.clone();
            let (database, redis) = tokio::join!(
                within_limit(check_database(&backends, &mut self.database)),
                within_limit(check_redis(&backends, &mut self.redis))
            );
            if database.is_err() {
                self.database = None;
            }
            if redis.is_err() {
                self.redis = None;
            }
            let database = log(&mut self.database_outage, database);
            let redis = log(&mut self.redis_outage, redis);
            checks.send_replace(Some(Arc::new(Checks { at, database, redis })));
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

async fn within_limit<T>(check: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(LIMIT, check).await.unwrap_or(Err(Error::Timeout(LIMIT)))
}

/// Logs the beginning and the end of an outage: anonymous clients do not get its cause.
fn log<T>(outage: &mut Outage, result: Result<T, Error>) -> Result<T, Failure> {
    match &result {
        Ok(_) => outage.ended(),
        Err(error) => outage.began(error),
    }
    result.map_err(|error| Failure::of(&error))
}

async fn check_database(backends: &Backends, connection: &mut Option<Client>) -> Result<Option<Standby>, Error> {
    let client = match connection.take_if(|client| !client.is_closed()) {
        Some(client) => connection.insert(client),
        None => connection.insert(backends.database.connect().await?),
    };
    // Not "SELECT 1": the server needs the extension.
    client.batch_execute("SELECT workflow.version()").await?;
    if !backends.is_standby {
        return Ok(None);
    }
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_xact_replay_timestamp()";
    let row = client.query_one(sql, &[]).await?;
    Ok(Some(Standby { in_recovery: row.try_get(0)?, last_commit: row.try_get(1)? }))
}

async fn check_redis(backends: &Backends, connection: &mut Option<RedisConnection>) -> Result<(), Error> {
    let Some(server) = &backends.redis else { return Ok(()) };
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(server.connect(LIMIT / 2, LIMIT).await?),
    };
    Ok(pg_workflow_client::redis::cmd("PING").query_async(connection).await?)
}

/// The count of a backlog, in progress.
type Counting<'a, T> = Pin<Box<dyn Future<Output = Result<Option<T>, Error>> + Send + 'a>>;

/// Counts a backlog. An outage keeps the last count: a gauge that vanishes raises no alert.
async fn count_again_and_again<'a, T>(
    backends: &Backends,
    interval: Duration,
    counts: &watch::Sender<Option<T>>,
    count: impl Fn(Arc<Client>) -> Counting<'a, T>,
) {
    let mut connection: Option<Arc<Client>> = None;
    loop {
        let began = Instant::now();
        let counting = async {
            let client = match &connection {
                Some(client) => client,
                None => {
                    let client = backends.database.connect().await?;
                    // PostgreSQL would compile the query, for longer than it runs.
                    client.batch_execute("SET jit = off").await?;
                    connection.insert(Arc::new(client))
                }
            };
            count(client.clone()).await
        };
        match tokio::time::timeout(COUNT_LIMIT, counting).await {
            Ok(Ok(counted)) => {
                counts.send_replace(counted);
            }
            Ok(Err(error)) => {
                tracing::debug!("cannot count a backlog: {error}");
                connection = None;
            }
            Err(_) => connection = None,
        }
        tokio::time::sleep(interval.max(began.elapsed() * COUNT_PAUSE)).await;
    }
}

async fn count_lag(client: Arc<Client>, consumer: &str) -> Result<Option<Lag>, Error> {
    let sql = "SELECT pending, coalesce(extract(epoch FROM lag), 0)::double precision \
               FROM workflow.consumer_lag WHERE consumer = $1";
    let at = Instant::now();
    match client.query_opt(sql, &[&consumer]).await {
        Ok(row) => Ok(row.map(|row| Lag { at, events: row.get(0), seconds: row.get(1) })),
        // The role of the relay might lack the right to see the lag.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn count_queues(client: Arc<Client>) -> Result<Option<Arc<Vec<Queue>>>, Error> {
    let all = ListOptions { limit: MOST_QUEUES, ..ListOptions::default() };
    match Queues::new(&*client).list(&QueueFilter::default(), &all).await {
        Ok(page) => Ok(Some(Arc::new(page.items))),
        // Databases before 0.3.0 have no queues.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        Err(Error::Denied { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
