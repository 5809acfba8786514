//! Changes as they happen, for people who look on.

use std::time::Duration;

use pg_workflow_client::tokio_postgres::Client;
use tokio::sync::mpsc;

use pg_workflow_client::Error;
use pg_workflow_client::connect::{PostgresServer, STATEMENT_TIMEOUT, within};
use pg_workflow_client::outage::{Backoff, Outage};

/// How often to ask whether the server is still there: a connection that only listens would not notice.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Notifications kept for a reader that is slow, after which they are dropped. Left with the server they would fill
/// its notification queue, which all databases share.
const KEPT: usize = 10_000;

/// Listens to the channel `workflow_events`, and again after an outage. What happens while it cannot listen is not
/// shown: use a [feed](pg_workflow_client::feed) to miss nothing.
pub struct Watch {
    server: PostgresServer,
    line: Option<Line>,
    outage: Outage,
    backoff: Backoff,
}

struct Line {
    client: Client,
    payloads: mpsc::Receiver<String>,
}

impl Watch {
    /// Prepares to listen; [`Watch::next`] connects.
    pub fn new(server: PostgresServer) -> Watch {
        Watch { server, line: None, outage: Outage::of("PostgreSQL"), backoff: Backoff::new() }
    }

    /// The next change: an [event](schema::Event) as JSON, without its metadata where that would be too long.
    /// Waits for a server that is away, and says so once.
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
            match self.hear().await {
                Ok(payload) => return payload,
                Err(error) => {
                    self.line = None;
                    self.outage.began(&error);
                    self.backoff.wait().await;
                }
            }
        }
    }

    async fn hear(&mut self) -> Result<String, Error> {
        let line = match &mut self.line {
            Some(line) => line,
            None => {
                let line = self.line.insert(Line::open(&self.server).await?);
                self.outage.ended();
                self.backoff.reset();
                line
            }
        };
        loop {
            match tokio::time::timeout(HEARTBEAT, line.payloads.recv()).await {
                Ok(Some(payload)) => return Ok(payload),
                // The connection ended, and the statement says so; or nothing was said for a while.
                Ok(None) | Err(_) => within(STATEMENT_TIMEOUT, line.client.batch_execute("")).await?,
            }
        }
    }
}

impl Line {
    async fn open(server: &PostgresServer) -> Result<Line, Error> {
        let (sender, payloads) = mpsc::channel(KEPT);
        let client = server.connect_listening(move |payload| {
            let _dropped_when_full = sender.try_send(payload.to_owned());
        });
        let client = client.await?;
        // The extension may be missing; nobody would ever notify then.
        within(STATEMENT_TIMEOUT, client.batch_execute("SELECT workflow.version(); LISTEN workflow_events")).await?;
        Ok(Line { client, payloads })
    }
}
