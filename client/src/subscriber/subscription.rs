//! A subscription to a Redis channel, and positions in the feed. It ends with its connection.

use std::io;
use std::time::Duration;

use crate::connect::Client;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{RedisError, Value};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinSet;

use crate::Error;
use crate::connect::{PostgresServer, STATEMENT_TIMEOUT};
use crate::redis_server::RedisServer;
use crate::{feed, session};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to check that Redis responds: a connection that only listens would not notice an outage.
const HEARTBEAT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of messages that wait for a slow handler. Beyond it the subscription ends, and the feed is read.
const KEPT: usize = 10_000;
/// How often a position is taken.
const MARK_INTERVAL: Duration = Duration::from_secs(2);

/// A position with the time when it was taken: an event with a later `changed_at` is after the position.
pub struct Mark {
    pub time: DateTime<Utc>,
    pub position: String,
}

pub struct Subscription {
    /// Ends without an error if the reader is too slow.
    pub messages: mpsc::Receiver<Result<String, Error>>,
    pub marks: mpsc::Receiver<Mark>,
    /// The tasks end with the subscription.
    _tasks: JoinSet<()>,
}

impl Subscription {
    pub async fn open(redis: &RedisServer, channel: &str, database: &PostgresServer) -> Result<Subscription, Error> {
        let (sink, stream) = redis.subscribe(channel, CONNECT_TIMEOUT).await?;
        let (message_sender, messages) = mpsc::channel(KEPT);
        let (mark_sender, marks) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let ended = listen(sink, stream, &message_sender).await;
            if let Err(error) = ended {
                // An error means that the receiver was dropped.
                let _ = message_sender.send(Err(error)).await;
            }
        });
        tasks.spawn(take_marks(database.clone(), mark_sender));
        Ok(Subscription { messages, marks, _tasks: tasks })
    }
}

/// Listens until the connection fails, or too many messages wait.
async fn listen(
    mut sink: PubSubSink,
    mut stream: PubSubStream,
    messages: &mpsc::Sender<Result<String, Error>>,
) -> Result<(), Error> {
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            message = stream.next() => {
                let Some(message) = message else { return Err(ended("the subscription ended")) };
                match messages.try_send(message.get_payload().map_err(Error::from)) {
                    Ok(()) => (),
                    Err(TrySendError::Full(_) | TrySendError::Closed(_)) => return Ok(()),
                }
            }
            _ = heartbeat.tick() => match tokio::time::timeout(TIMEOUT, sink.ping::<Value>()).await {
                Ok(response) => drop(response?),
                Err(_) => return Err(ended("no response to PING")),
            }
        }
    }
}

fn ended(how: &str) -> Error {
    RedisError::from(io::Error::new(io::ErrorKind::ConnectionAborted, how)).into()
}

/// While PostgreSQL is unavailable there are none: after an outage of the channel, the feed is then read from an
/// earlier position.
async fn take_marks(database: PostgresServer, marks: mpsc::Sender<Mark>) {
    let mut client = None;
    while !marks.is_closed() {
        // Reserved before the position is taken, which would otherwise be old when it is used.
        let Ok(place) = marks.reserve().await else { return };
        match take_mark(&database, &mut client).await {
            Ok(mark) => place.send(mark),
            Err(error) => {
                tracing::debug!("cannot read a position of the feed: {error}");
                client = None;
            }
        }
        tokio::time::sleep(MARK_INTERVAL).await;
    }
}

async fn take_mark(database: &PostgresServer, client: &mut Option<Client>) -> Result<Mark, Error> {
    let client = match client {
        Some(client) => client,
        None => client.insert(feed::connect_to_wait(database).await?),
    };
    // The clock after the position: the columns are computed in this order.
    let sql = "SELECT workflow.current_position(), pg_catalog.clock_timestamp()";
    let row = session::one_of(session::once_in(client, STATEMENT_TIMEOUT, sql, &[]).await?)?;
    Ok(Mark { position: row.try_get(0)?, time: row.try_get(1)? })
}
