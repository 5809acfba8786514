//! The event feed for consumers: each event at least once, in order within an entity.

use std::time::Duration;

use futures_util::{Stream, StreamExt, future};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::Error;
use crate::connect::{Client, PostgresServer, STATEMENT_TIMEOUT, within};
use crate::event::Event;
use crate::session::{self, Parameter};

/// A connection that reads the feed as a consumer.
///
/// The database stores the consumer's position.
pub struct Feed {
    client: Client,
    read: String,
    consumer: String,
    /// The consumer's lease, if this connection holds it.
    lease: Option<i64>,
}

impl Feed {
    /// Connects, and creates the consumer if it does not exist.
    ///
    /// A new consumer begins with the events committed from then on.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] if the extension is missing, or if the server is unavailable; [`Error::Timeout`]
    /// if it does not respond.
    pub async fn open(server: &PostgresServer, consumer: &str) -> Result<Feed, Error> {
        let feed = Feed::reopen(server, consumer).await?;
        // A crash must not undo this: the consumer would be taken for one that is gone.
        let create = "SELECT pg_catalog.set_config('synchronous_commit', 'on', true), workflow.create_consumer($1)";
        feed.run(create, &[]).await?;
        Ok(feed)
    }

    /// Connects again, as a consumer that this program has read before, and that [`open`](Feed::open) must not create
    /// again: a new one would skip events.
    ///
    /// # Errors
    /// As [`open`](Feed::open). [`lease`](Feed::lease) returns [`Error::ConsumerGone`] if it no longer exists.
    pub async fn reopen(server: &PostgresServer, consumer: &str) -> Result<Feed, Error> {
        // An acknowledgment that is lost in a crash only repeats events, so it need not wait for the disk.
        let server = server.clone().with_setting("synchronous_commit", "off");
        let read = format!(
            "SELECT {} FROM workflow.read_events($1, $2, pg_catalog.make_interval(secs => $3), $4)",
            Event::COLUMNS
        );
        Ok(Feed { client: connect_to_wait(&server).await?, read, consumer: consumer.to_owned(), lease: None })
    }

    /// Runs a statement whose first parameter is the consumer.
    async fn run(&self, sql: &str, others: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        let parameters = [&[(&self.consumer as _, Type::TEXT)], others].concat();
        session::once_in(&self.client, STATEMENT_TIMEOUT, sql, &parameters).await
    }

    /// Returns a short text that identifies the database: its cluster, and its number there.
    #[cfg(feature = "relay")]
    pub(crate) async fn source(&self) -> Result<String, Error> {
        let sql = "SELECT pg_catalog.format('%s/%s', c.system_identifier, d.oid)
                   FROM pg_catalog.pg_control_system() AS c, pg_catalog.pg_database AS d
                   WHERE d.datname = pg_catalog.current_database()";
        let rows = session::once_in(&self.client, STATEMENT_TIMEOUT, sql, &[]).await?;
        Ok(session::one_of(rows)?.try_get(0)?)
    }

    /// Returns whether the consumer was created to begin with the first event, and has not read beyond it.
    ///
    /// True as well if the role may not see that: as a writer before 0.3.0.
    #[cfg(feature = "relay")]
    pub(crate) async fn is_at_beginning(&self) -> Result<bool, Error> {
        let sql = "SELECT snapshot IS NULL AND floor_id = 0 FROM workflow.consumers WHERE name = $1";
        match self.run(sql, &[]).await {
            Ok(rows) => Ok(rows.first().is_some_and(|row| row.get(0))),
            Err(Error::Denied { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Names this consumer, which would skip events.
    pub(crate) fn gone(&self) -> Error {
        Error::ConsumerGone { consumer: self.consumer.clone() }
    }

    /// Reads the next events, up to `max` (at least 1).
    ///
    /// If the previous read found none, the database waits up to `wait` (a few seconds at most) for an event. The
    /// stream may still be empty. Events are fetched as the stream is polled, so a batch need not fit into memory.
    /// Responses arrive in order: poll the stream to its end before you await another call.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable; the stream does so too.
    pub async fn read(
        &self,
        max: i32,
        wait: Duration,
    ) -> Result<impl Stream<Item = Result<Event, Error>> + use<>, Error> {
        let wait = wait.as_secs_f64();
        let parameters: [Parameter<'_>; 4] =
            [(&self.consumer, Type::TEXT), (&max, Type::INT4), (&wait, Type::FLOAT8), (&self.lease, Type::INT8)];
        let started = within(STATEMENT_TIMEOUT, session::start(&self.client, &self.read, &parameters)).await?;
        Ok(started.stream().map(|row| Event::from_row(&row?)))
    }

    /// Acknowledges this event and all events that were read before it.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable; the events are then
    /// redelivered.
    pub async fn ack(&self, id: i64) -> Result<(), Error> {
        let ack = "SELECT workflow.ack_events($1, $2, $3)";
        self.run(ack, &[(&id, Type::INT8), (&self.lease, Type::INT8)]).await.map(drop)
    }

    /// Calls [`Feed::ack`], if there is an event to acknowledge, and [`Feed::read`], in one round trip.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub(crate) async fn ack_and_read(
        &self,
        id: Option<i64>,
        max: i32,
        wait: Duration,
    ) -> Result<impl Stream<Item = Result<Event, Error>> + use<>, Error> {
        let acknowledge = async {
            match id {
                Some(id) => self.ack(id).await,
                None => Ok(()),
            }
        };
        // The driver sends both, and the server runs them in this order.
        let (acknowledged, events) = future::join(acknowledge, self.read(max, wait)).await;
        acknowledged?;
        events
    }

    /// Renews the lease, and changes nothing else for a reader that returns to a checkpoint next.
    #[cfg(feature = "relay")]
    pub(crate) async fn renew(&self) -> Result<(), Error> {
        let sql = "SELECT id FROM workflow.read_events($1, 1, interval '0 s', $2)";
        self.run(sql, &[(&self.lease, Type::INT8)]).await.map(drop)
    }

    /// Names the next event, reading which raises this error, by its id alone.
    #[cfg(feature = "relay")]
    pub(crate) async fn name_next(&self, error: Error) -> Result<Error, Error> {
        let sql = "SELECT id FROM workflow.read_events($1, 1, interval '0 s', $2)";
        match self.run(sql, &[(&self.lease, Type::INT8)]).await?.first() {
            Some(row) => {
                let (consumer, event_id) = (self.consumer.clone(), row.try_get(0)?);
                Ok(Error::Undeliverable { consumer, event_id, cause: Box::new(error) })
            }
            None => Err(error),
        }
    }

    /// Acquires an exclusive lease on the consumer.
    ///
    /// Returns false if another holder has it.
    ///
    /// The lease expires if the connection neither reads nor acknowledges for `duration`. `holder` names this
    /// program; the same holder can acquire its own lease again, on a new connection.
    ///
    /// # Errors
    /// Returns [`Error::ConsumerGone`] if the consumer no longer exists; [`Error::Postgres`] or [`Error::Timeout`] if the
    /// server is unavailable.
    pub async fn lease(&mut self, holder: &str, duration: Duration) -> Result<bool, Error> {
        let lease = "SELECT workflow.lease_consumer($1, $2, pg_catalog.make_interval(secs => $3))";
        let seconds = duration.as_secs_f64();
        self.lease = match self.run(lease, &[(&holder, Type::TEXT), (&seconds, Type::FLOAT8)]).await {
            Err(Error::NotFound { .. }) => return Err(self.gone()),
            rows => session::one_of(rows?)?.try_get(0)?,
        };
        Ok(self.lease.is_some())
    }

    /// Releases the lease before it expires.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn release(&mut self) -> Result<(), Error> {
        if let Some(lease) = self.lease.take() {
            let release = "SELECT workflow.release_consumer($1, $2)";
            self.run(release, &[(&lease, Type::INT8)]).await?;
        }
        Ok(())
    }

    /// Saves a relay checkpoint at a position of the destination.
    ///
    /// The destination ends at `position` and holds exactly the acknowledged events.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn save_checkpoint(&self, position: [i64; 2]) -> Result<(), Error> {
        let save = "SELECT workflow.save_checkpoint($1, $2, $3)";
        self.run(save, &[(&&position[..], Type::INT8_ARRAY), (&self.lease, Type::INT8)]).await.map(drop)
    }

    /// Rewinds to the last relay checkpoint up to `position`, or to the first.
    ///
    /// Returns the position of the checkpoint; `None` if there is none.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn rewind(&self, position: [i64; 2]) -> Result<Option<[i64; 2]>, Error> {
        let rewind = "SELECT workflow.rewind_consumer($1, $2, $3)";
        let rows = self.run(rewind, &[(&&position[..], Type::INT8_ARRAY), (&self.lease, Type::INT8)]).await?;
        let position: Option<Vec<i64>> = session::one_of(rows)?.try_get(0)?;
        Ok(position.and_then(|position| <[i64; 2]>::try_from(position).ok()))
    }
}

/// Opens a connection whose session is woken when it waits for events.
///
/// Behind a pooler it is woken only if the extension is preloaded: a notification would reach other clients.
///
/// # Errors
/// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
pub async fn connect_to_wait(server: &PostgresServer) -> Result<Client, Error> {
    // A wait for the disk or for a standby ends with its reader: the next one waits for the same.
    let client = server.clone().with_fixed_settings().with_cancellation().connect().await?;
    let is_preloaded = session::once_in(&client, STATEMENT_TIMEOUT, "SELECT workflow.is_preloaded()", &[]).await?;
    if !client.is_pooled() && !session::one_of(is_preloaded)?.try_get::<_, bool>(0)? {
        // Without preloading, commits wake no session, so a notification must.
        within(STATEMENT_TIMEOUT, client.driver().batch_execute("LISTEN workflow_events")).await?;
    }
    Ok(client)
}
