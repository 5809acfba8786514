//! The feed, from a position that the follower stores.

use std::time::Duration;

use crate::connect::Client;
use tokio::sync::watch;

use super::BATCH;
#[cfg(feature = "redis")]
use super::versions::Known;
use crate::Error;
use crate::connect::PostgresServer;
#[cfg(feature = "redis")]
use crate::connect::STATEMENT_TIMEOUT;
use crate::event::Event;
#[cfg(feature = "redis")]
use crate::session;
use crate::{feed, position};
#[cfg(feature = "redis")]
use tokio_postgres::types::Type;

pub struct Follower {
    server: PostgresServer,
    client: Option<Client>,
    /// The position after all delivered events.
    pub positions: watch::Sender<Option<String>>,
    /// The last event of the current batch, and the position after it.
    current: Option<(i64, String)>,
}

impl Follower {
    pub fn new(server: PostgresServer, position: Option<String>) -> Follower {
        // Files end in a newline.
        let position = position.map(|position| position.trim().to_owned());
        Follower { server, client: None, positions: watch::Sender::new(position), current: None }
    }

    pub fn describe(&self) -> String {
        format!("the feed at {}", self.server)
    }

    /// Starts from now if there is no position.
    pub async fn begin(&mut self) -> Result<String, Error> {
        let known = self.positions.borrow().clone();
        if let Some(position) = known {
            return Ok(position);
        }
        let position = position::current(self.connect().await?).await?;
        self.continue_from(position.clone());
        Ok(position)
    }

    /// Returns the next events; all previous ones have been delivered.
    pub async fn next(&mut self, wait: Duration) -> Result<Vec<Event>, Error> {
        self.finish();
        let position = self.begin().await?;
        let batch = match position::read(self.connect().await?, &position, BATCH, wait).await {
            Err(Error::Invalid { argument, cause, .. }) if argument == "position" => {
                self.lose_position(&Error::Postgres(cause));
                return Ok(Vec::new());
            }
            batch => batch?,
        };
        let Some(batch) = batch else { return Ok(Vec::new()) };
        self.current = batch.events.last().map(|last| (last.id, batch.position));
        Ok(batch.events)
    }

    pub fn handled(&mut self, event: &Event) {
        if self.current.as_ref().is_some_and(|(last, _)| *last == event.id) {
            self.finish();
        }
    }

    /// Returns the events of an entity before a version that are not among the known ones.
    #[cfg(feature = "redis")]
    pub async fn history(&mut self, entity: uuid::Uuid, known: Known, before: i64) -> Result<Vec<Event>, Error> {
        let sql = format!(
            "SELECT {} FROM workflow.state_history
             WHERE entity_id = $1 AND version < $2 AND (version > $3 OR changed_at > $4) ORDER BY version",
            Event::COLUMNS
        );
        let client = self.connect().await?;
        let parameters: [session::Parameter<'_>; 4] = [
            (&entity, Type::UUID),
            (&before, Type::INT8),
            (&known.version, Type::INT8),
            (&known.time, Type::TIMESTAMPTZ),
        ];
        let rows = session::once_in(client, STATEMENT_TIMEOUT, &sql, &parameters).await?;
        rows.iter().map(Event::from_row).collect()
    }

    pub fn continue_from(&mut self, position: String) {
        self.current = None;
        self.positions.send_replace(Some(position));
    }

    pub fn disconnect(&mut self) {
        self.client = None;
        self.current = None;
    }

    fn finish(&mut self) {
        if let Some((_, position)) = self.current.take() {
            self.positions.send_replace(Some(position));
        }
    }

    fn lose_position(&mut self, why: &Error) {
        tracing::warn!("{why}; continuing from now, and events may be missed");
        self.positions.send_replace(None);
    }

    async fn connect(&mut self) -> Result<&Client, Error> {
        if self.client.is_none() {
            self.client = Some(feed::connect_to_wait(&self.server).await?);
        }
        self.client.as_ref().ok_or_else(|| Error::Unknown("no connection".to_owned()))
    }
}
