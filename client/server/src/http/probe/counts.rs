//! Counts of backlogs, which take a while if they are long.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_workflow_client::connect::{Client, PostgresServer};
use pg_workflow_client::list::{ListOptions, QueueFilter};
use pg_workflow_client::tokio_postgres::Row;
use pg_workflow_client::tokio_postgres::error::SqlState;
use pg_workflow_client::tokio_postgres::types::Type;
use pg_workflow_client::{Error, Queue, Queues, session};
use tokio::sync::watch;

use super::connect;

/// Time limit of counting a backlog.
const COUNT_LIMIT: Duration = Duration::from_secs(120);
/// Interval of counting the tasks of queues, states, consumers and partitions.
pub const ROW_INTERVAL: Duration = Duration::from_secs(10);
/// Number of queues that are counted.
const MOST_QUEUES: u32 = 1000;
/// Counting takes at most this part of the time, because a backlog of millions takes seconds.
const COUNT_PAUSE: u32 = 4;

/// The backlog and the lag of the relay's consumer, as they were last counted.
#[derive(Clone, Copy)]
pub struct Lag {
    pub at: Instant,
    pub events: i64,
    pub seconds: f64,
}

/// The count of a backlog, in progress.
type Counting<'a, T> = Pin<Box<dyn Future<Output = Result<Option<T>, Error>> + Send + 'a>>;

/// Counts a backlog. An outage keeps the last count: a gauge that vanishes raises no alert.
pub async fn count_again_and_again<'a, T>(
    server: &PostgresServer,
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
                None => connection.insert(Arc::new(connect(server).await?)),
            };
            count(client.clone()).await
        };
        match tokio::time::timeout(COUNT_LIMIT, counting).await {
            // A consumer that is gone has no lag, but an alert on it must not end.
            Ok(Ok(None)) => (),
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

pub async fn count_lag(client: Arc<Client>, consumer: &str) -> Result<Option<Lag>, Error> {
    let sql = "SELECT pending, coalesce(extract(epoch FROM lag), 0)::double precision \
               FROM workflow.consumer_lag WHERE consumer = $1";
    let at = Instant::now();
    match session::once_in(&*client, COUNT_LIMIT, sql, &[(&consumer, Type::TEXT)]).await {
        Ok(rows) => Ok(rows.first().map(|row| Lag { at, events: row.get(0), seconds: row.get(1) })),
        // The role of the relay might lack the right to see the lag.
        Err(Error::Denied { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn count_queues(client: Arc<Client>) -> Result<Option<Arc<Vec<Queue>>>, Error> {
    let all = ListOptions { limit: MOST_QUEUES, ..ListOptions::default() };
    match Queues::new(&*client).list(&QueueFilter::default(), &all).await {
        Ok(page) => Ok(Some(Arc::new(page.items))),
        // Databases before 0.3.0 have no queues.
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        Err(Error::Denied { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs and tasks by state, and those that are stuck.
pub struct States {
    /// Kind of entity, state, count.
    pub counts: Vec<(String, String, i64)>,
    /// Kind of entity, count.
    pub stuck: Vec<(String, i64)>,
}

/// How far consumers lag, and the partitions of the tables.
pub struct FeedCounts {
    pub at: Instant,
    /// Consumer, backlog, age of its oldest event in seconds.
    pub consumers: Vec<(String, i64, f64)>,
    /// Table, role, count, bytes.
    pub partitions: Vec<(String, String, i64, i64)>,
}

pub async fn count_states(client: Arc<Client>) -> Result<Option<Arc<States>>, Error> {
    let counts = "SELECT entity_type::text, state::text, count::bigint FROM workflow.state_counts";
    // Kinds without a stuck entity, too: an alert needs the 0.
    let stuck = "SELECT kind, count(s.entity_type) \
                 FROM unnest(ARRAY['dag_run', 'task_instance']) AS kind \
                 LEFT JOIN workflow.stuck() AS s ON s.entity_type = kind GROUP BY kind ORDER BY kind";
    let (Some(counts), Some(stuck)) = (rows(&client, counts).await?, rows(&client, stuck).await?) else {
        return Ok(None);
    };
    let counts = counts.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    Ok(Some(Arc::new(States { counts, stuck: stuck.iter().map(|row| (row.get(0), row.get(1))).collect() })))
}

pub async fn count_feed(client: Arc<Client>) -> Result<Arc<FeedCounts>, Error> {
    let at = Instant::now();
    let consumers = "SELECT consumer, pending, coalesce(extract(epoch FROM lag), 0)::double precision \
                     FROM workflow.consumer_lag";
    let partitions = "SELECT table_name, role, count(*), sum(bytes)::bigint FROM workflow.partitions \
                      GROUP BY table_name, role ORDER BY table_name, role";
    let consumers = rows(&client, consumers).await?.unwrap_or_default();
    let partitions = rows(&client, partitions).await?.unwrap_or_default();
    let consumers = consumers.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let partitions = partitions.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    Ok(Arc::new(FeedCounts { at, consumers, partitions }))
}

/// Returns `None` if the role lacks the right to read them.
async fn rows(client: &Client, sql: &str) -> Result<Option<Vec<Row>>, Error> {
    match session::once_in(client, COUNT_LIMIT, sql, &[]).await {
        Ok(rows) => Ok(Some(rows)),
        Err(Error::Denied { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
