//! Live events for people, from notifications of the database.

use std::time::Duration;

use pg_workflow_client::connect::Client;
use tokio::sync::mpsc;

use pg_workflow_client::Error;
use pg_workflow_client::connect::{PostgresServer, STATEMENT_TIMEOUT, within};
use pg_workflow_client::outage::{Backoff, Outage};

/// Interval of checks that the server is available: a connection that only listens does not notice.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Notifications buffered for a slow reader; further ones are dropped. Left in the server, they would fill its
/// notification queue, which all databases share.
const BUFFERED: usize = 10_000;

/// Listens on the channel `workflow_events`, and reconnects after an outage.
///
/// It misses events while it is not connected: use a [feed](pg_workflow_client::feed) to miss none.
pub struct Watch {
    server: PostgresServer,
    connection: Option<Connection>,
    outage: Outage,
    backoff: Backoff,
}

struct Connection {
    client: Client,
    payloads: mpsc::Receiver<String>,
}

impl Watch {
    /// Prepares to listen; [`Watch::next`] connects.
    pub fn new(server: PostgresServer) -> Watch {
        Watch { server, connection: None, outage: Outage::of("PostgreSQL"), backoff: Backoff::new() }
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
                    self.connection = None;
                    self.outage.began(&error);
                    self.backoff.wait().await;
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<String, Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let connection = self.connection.insert(Connection::open(&self.server).await?);
                self.outage.ended();
                self.backoff.reset();
                connection
            }
        };
        loop {
            match tokio::time::timeout(HEARTBEAT, connection.payloads.recv()).await {
                Ok(Some(payload)) => return Ok(payload),
                // The connection ended, and the statement returns the error; or there was no event for a while.
                Ok(None) | Err(_) => within(STATEMENT_TIMEOUT, connection.client.batch_execute("")).await?,
            }
        }
    }
}

impl Connection {
    async fn open(server: &PostgresServer) -> Result<Connection, Error> {
        let (sender, payloads) = mpsc::channel(BUFFERED);
        let client = server.connect_listening(move |payload| {
            let _dropped_when_full = sender.try_send(payload.to_owned());
        });
        let client = client.await?;
        // Fails if the extension is missing: then there would never be a notification.
        within(STATEMENT_TIMEOUT, client.batch_execute("SELECT workflow.version(); LISTEN workflow_events")).await?;
        Ok(Connection { client, payloads })
    }
}
