//! A connection that is opened again after an error.

use std::future::Future;

use crate::Error;
use crate::connect::{Client, PostgresServer, STATEMENT_TIMEOUT};
use crate::outage::{Backoff, Outage};

/// Begins a transaction that the server ends if this process is suspended. A task whose row it has locked would be
/// without a lease, and a queue with slots closed to the others.
pub const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
    SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL lock_timeout = '1s'";

pub struct Link {
    server: PostgresServer,
    client: Option<Client>,
    outage: Outage,
    backoff: Backoff,
}

impl Link {
    pub fn new(server: PostgresServer) -> Link {
        Link { server, client: None, outage: Outage::of("PostgreSQL"), backoff: Backoff::new() }
    }

    /// Returns the connection, open.
    pub async fn open(&mut self) -> Result<&Client, Error> {
        if self.client.is_none() {
            self.client = Some(self.server.connect().await?);
        }
        self.client.as_ref().ok_or_else(|| Error::Unknown("no connection".to_owned()))
    }

    /// Closes the connection, so that the server ends a statement that waits for a lock or for a task. To cancel it would
    /// also end the wait of a commit for its synchronous standby.
    pub fn close(&mut self) {
        self.client = None;
    }

    pub fn succeeded(&mut self) {
        self.outage.ended();
        self.backoff.reset();
    }

    /// Logs an error and closes the connection. Then waits for a little while.
    pub async fn failed(&mut self, error: &Error) {
        self.close();
        self.outage.began(error);
        self.backoff.wait().await;
    }
}

/// Waits for a response, up to the time limit of a statement.
pub async fn limited<T>(response: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(STATEMENT_TIMEOUT, response).await.unwrap_or(Err(Error::Timeout(STATEMENT_TIMEOUT)))
}
