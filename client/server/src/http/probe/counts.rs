//! Counts of backlogs, which take a while if they are long.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_workflow_client::connect::{Client, PostgresServer};
use pg_workflow_client::list::{ListOptions, QueueFilter};
use pg_workflow_client::tokio_postgres::error::SqlState;
use pg_workflow_client::tokio_postgres::types::Type;
use pg_workflow_client::{Error, Queue, Queues, session};
use tokio::sync::watch;

use super::connect;

/// Time limit of counting a backlog.
const COUNT_LIMIT: Duration = Duration::from_secs(120);
/// Interval of counting the tasks of queues.
pub const QUEUE_INTERVAL: Duration = Duration::from_secs(10);
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
