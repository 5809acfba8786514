//! Live events for people.

use std::collections::VecDeque;
use std::time::Duration;

use pg_workflow_client::connect::Client;
use tokio::sync::mpsc;

use pg_workflow_client::connect::{PostgresServer, STATEMENT_TIMEOUT, within};
use pg_workflow_client::event::Event;
use pg_workflow_client::outage::{Backoff, Outage};
use pg_workflow_client::{Error, position, session};

/// Interval of checks that the server is available: a connection that only listens does not notice.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Notifications buffered for a slow reader; further ones are dropped. Left in the server, they would fill its
/// notification queue, which all databases share.
const BUFFERED: usize = 10_000;
/// Events of the feed that are read at once, and how long the database waits for one.
const BATCH: i32 = 500;
const WAIT: Duration = Duration::from_secs(2);

/// Listens on the channel `workflow_events`, and reconnects after an outage. Behind a pooler, which may run each statement
/// in another session, it reads the event feed instead.
///
/// It misses events while it is not connected: use a [feed](pg_workflow_client::feed) to miss none.
pub struct Watch {
    server: PostgresServer,
    source: Option<Source>,
    outage: Outage,
    backoff: Backoff,
}

enum Source {
    Channel { client: Client, payloads: mpsc::Receiver<String> },
    Feed { client: Client, position: String, events: VecDeque<Event> },
}

impl Watch {
    /// Prepares to listen; [`Watch::next`] connects.
    pub fn new(server: PostgresServer) -> Watch {
        Watch { server, source: None, outage: Outage::of("PostgreSQL"), backoff: Backoff::new() }
    }

    /// Waits for the next event, as JSON; without its metadata if it is too long for a notification.
    ///
    /// Waits while the server is unavailable, and logs that once.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), pg_workflow_client::Error> {
    /// let server = pg_workflow_client::connect::PostgresServer::parse("postgres://postgres@127.0.0.1/workflow")?;
    /// let mut watch = pg_workflow_server::watch::Watch::new(server);
    /// println!("{}", watch.next().await);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> String {
        loop {
            match self.receive().await {
                Ok(payload) => return payload,
                Err(error) => {
                    self.source = None;
                    self.outage.began(&error);
                    self.backoff.wait().await;
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<String, Error> {
        let source = match &mut self.source {
            Some(source) => source,
            None => {
                let source = self.source.insert(Source::open(&self.server).await?);
                self.outage.ended();
                self.backoff.reset();
                source
            }
        };
        source.next().await
    }
}

impl Source {
    async fn open(server: &PostgresServer) -> Result<Source, Error> {
        let (sender, payloads) = mpsc::channel(BUFFERED);
        let server = server.clone().with_fixed_settings();
        let client = server.connect_listening(move |payload| {
            let _dropped_when_full = sender.try_send(payload.to_owned());
        });
        let client = client.await?;
        // Fails if the extension is missing: then there would never be an event.
        session::once_in(&client, STATEMENT_TIMEOUT, "SELECT workflow.version()", &[]).await?;
        if client.is_pooled() {
            let position = position::current(&client).await?;
            return Ok(Source::Feed { client, position, events: VecDeque::new() });
        }
        within(STATEMENT_TIMEOUT, client.batch_execute("LISTEN workflow_events")).await?;
        Ok(Source::Channel { client, payloads })
    }

    async fn next(&mut self) -> Result<String, Error> {
        match self {
            Source::Channel { client, payloads } => loop {
                match tokio::time::timeout(HEARTBEAT, payloads.recv()).await {
                    Ok(Some(payload)) => return Ok(payload),
                    // The connection ended, and the statement returns the error; or there was no event for a while.
                    Ok(None) | Err(_) => within(STATEMENT_TIMEOUT, client.batch_execute("")).await?,
                }
            },
            Source::Feed { client, position, events } => loop {
                if let Some(event) = events.pop_front() {
                    return Ok(serde_json::to_string(&event)?);
                }
                if let Some(batch) = position::read(client, position, BATCH, WAIT).await? {
                    (*position, *events) = (batch.position, batch.events.into());
                }
            },
        }
    }
}
