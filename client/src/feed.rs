//! The durable event feed: a named consumer is given every event at least once, in order within each entity.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::Notify;
use tokio_postgres::{Client, Config, Statement, types::ToSql};

use crate::Error;
use crate::connect::{STATEMENT_TIMEOUT, connect_hearing, within};
use crate::event::Event;

/// A connection that reads the feed as one consumer. The database keeps the consumer's place.
pub struct Feed {
    client: Client,
    read: Statement,
    ack: Statement,
    consumer: String,
    /// Set by any number of notifications, cleared by one [`Feed::wait`].
    news: Arc<Notify>,
}

impl Feed {
    /// Connects, creates the consumer where it does not exist (it then begins with what commits from now on), and
    /// listens for news.
    ///
    /// # Errors
    /// [`Error::Postgres`] or [`Error::Timeout`]; [`Error::advice`] tells what to do, for example to install the
    /// extension.
    pub async fn open(config: &Config, consumer: &str) -> Result<Feed, Error> {
        let news = Arc::new(Notify::new());
        let bell = Arc::clone(&news);
        let client = connect_hearing(config, move |_| bell.notify_one()).await?;
        let prepare = async {
            // An acknowledgement that is lost in a crash only repeats events, so nobody need wait for the disk.
            client.batch_execute("SET synchronous_commit = off; LISTEN workflow_events").await?;
            client.execute("SELECT workflow.create_consumer($1)", &[&consumer]).await?;
            let read = format!("SELECT {} FROM workflow.read_events($1, $2)", Event::COLUMNS);
            Ok((client.prepare(&read).await?, client.prepare("SELECT workflow.ack_events($1, $2)").await?))
        };
        let (read, ack) = within(STATEMENT_TIMEOUT, prepare).await?;
        Ok(Feed { client, read, ack, consumer: consumer.to_owned(), news })
    }

    /// The next events, at most `max` (at least 1); none where all have been acknowledged. They are fetched as the
    /// stream is polled, so a batch need not fit into memory. Answers arrive in order: poll the stream to its end
    /// before you wait for another call.
    ///
    /// # Errors
    /// [`Error::Postgres`] or [`Error::Timeout`], here and from the stream.
    pub async fn read(&self, max: i32) -> Result<impl Stream<Item = Result<Event, Error>>, Error> {
        let parameters: [&(dyn ToSql + Sync); 2] = [&self.consumer, &max];
        let rows = within(STATEMENT_TIMEOUT, self.client.query_raw(&self.read, parameters)).await?;
        Ok(rows.map(|row| Event::from_row(&row?)))
    }

    /// Says that this event, and all that were read before it, have been dealt with.
    ///
    /// Polled together with [`Feed::read`] (with `futures_util::future::join`, in this order), both go out in one
    /// round trip.
    ///
    /// # Errors
    /// [`Error::Postgres`] or [`Error::Timeout`]; the events then come again.
    pub async fn ack(&self, id: i64) -> Result<(), Error> {
        within(STATEMENT_TIMEOUT, self.client.execute(&self.ack, &[&self.consumer, &id])).await?;
        Ok(())
    }

    /// Waits until there may be something to read. Returns false where nothing was heard for `at_most`: a reader
    /// reads then too, because hints can get lost, and because that is how a dead connection is noticed.
    pub async fn wait(&self, at_most: Duration) -> bool {
        tokio::time::timeout(at_most, self.news.notified()).await.is_ok()
    }
}
