//! A connection that is opened again after an error, and its transactions, one after the other.
//!
//! Everything that a worker writes is a transaction of a link: BEGIN, one statement, COMMIT. If the answer to COMMIT is
//! lost, or does not come because the synchronous standby is unavailable, the transaction's outcome is open, and stays so
//! when the connection is closed. Each transaction therefore holds an advisory lock of its own. After a COMMIT without an
//! answer, the next one begins with the wait for that lock: it begins when the outcome is decided, and sees it. Until
//! then the worker does nothing more over this link, and no sessions pile up.
//!
//! What is not known here is said again, as the database answers it as before. So there are two kinds of failures:
//!
//! | statement | does not begin: server or standby unavailable | fails, breaks the connection, takes more than 10 s, or waits more than 1 s for a lock |
//! |---|---|---|
//! | `claim_tasks` | again, after a pause | again, after a pause; after COMMIT a renewal tells which claims are ours; an error of the options ends the worker |
//! | `renew_claims` | again, after a pause | in smaller parts, down to single claims: those leases run out |
//! | `reap_claims` | at the next heartbeat | at the next heartbeat |
//! | `finish_claims` | again, after a pause | one by one, again and again; if the reason can be the result itself, as a failure, up to a lease |
//! | `release_claims` | again, for 5 s | in smaller parts, down to single claims, again, for 5 s |
//!
//! `wait_for_tasks` writes nothing for its worker, and is repeated. The classes of SQLSTATE matter only for the decision
//! whether a result is to blame: a trigger can raise any of them.

use std::future::Future;
use std::time::Duration;

use futures_util::future;
use tokio_postgres::error::SqlState;

use crate::Error;
use crate::connect::{Client, PostgresServer, STATEMENT_TIMEOUT};
use crate::outage::{Backoff, Outage};
use crate::repository::Claims;

/// Claims of a part that is not yet single.
const PART: usize = 100;
/// How long a statement waits for a lock.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

/// Why a transaction failed.
#[derive(Debug)]
pub enum Failed {
    /// It did not begin: the server is unavailable, or has not decided the link's last transaction.
    Outage(Error),
    /// It began. The reason can be one of its claims. It can be committed if the error is of COMMIT.
    Refused(Error),
}

pub struct Link {
    server: PostgresServer,
    client: Option<Client>,
    /// The lock of the current transaction.
    key: i64,
    /// The lock of a transaction whose COMMIT was not answered.
    undecided: Option<i64>,
    limit: Duration,
    lock_limit: Duration,
    outage: Outage,
    backoff: Backoff,
}

impl Link {
    pub fn new(server: PostgresServer) -> Link {
        // `wait_for_tasks` runs without a transaction of the link.
        let server = server.with_fixed_settings();
        let (outage, backoff) = (Outage::of("PostgreSQL"), Backoff::new());
        let (limit, lock_limit) = (STATEMENT_TIMEOUT, LOCK_LIMIT);
        Link { server, client: None, key: 0, undecided: None, limit, lock_limit, outage, backoff }
    }

    /// Waits only so long for the response to a statement.
    pub fn with_limit(mut self, limit: Duration) -> Link {
        self.limit = limit;
        self
    }

    /// Lets statements wait only so long for locks.
    pub fn with_lock_limit(mut self, limit: Duration) -> Link {
        self.lock_limit = limit;
        self
    }

    /// Returns the connection, open.
    pub async fn open(&mut self) -> Result<&Client, Error> {
        if self.client.is_none() {
            self.client = Some(within(STATEMENT_TIMEOUT, self.server.connect()).await?);
        }
        self.client.as_ref().ok_or_else(|| Error::Unknown("no connection".to_owned()))
    }

    /// Runs a statement in a transaction.
    pub async fn transaction<T>(
        &mut self,
        statement: impl AsyncFnOnce(Claims<'_, Client>) -> Result<T, Error>,
    ) -> Result<T, Failed> {
        let result = self.begin(statement).await?;
        self.commit().await.map_err(Failed::Refused)?;
        Ok(result)
    }

    /// Begins a transaction with a statement.
    pub async fn begin<T>(
        &mut self,
        statement: impl AsyncFnOnce(Claims<'_, Client>) -> Result<T, Error>,
    ) -> Result<T, Failed> {
        self.key = rand::random();
        let (begin, limit) = (self.begin_statement(), self.limit);
        let client = self.open().await.map_err(Failed::Outage)?;
        // The driver sends both, and the server runs them in this order.
        let (begun, result) =
            future::join(within(limit, execute(client, &begin)), within(limit, statement(Claims::new(client)))).await;
        if let Err(error) = begun {
            self.close();
            return Err(Failed::Outage(match error.code() {
                // The outcome of the last COMMIT is still open.
                Some(&SqlState::LOCK_NOT_AVAILABLE) => Error::Timeout(self.decision_limit()),
                _ => error,
            }));
        }
        self.undecided = None;
        if result.is_err() {
            self.close();
        }
        result.map_err(Failed::Refused)
    }

    /// Commits the transaction.
    pub async fn commit(&mut self) -> Result<(), Error> {
        let limit = self.limit;
        let committed = within(limit, execute(self.open().await?, "COMMIT")).await;
        if committed.is_err() {
            self.undecided = Some(self.key);
            self.close();
        }
        committed
    }

    /// The server ends the transaction if this process is suspended. A task whose row it has locked would be without a
    /// lease, and a queue with slots closed to the others.
    fn begin_statement(&self) -> String {
        let lock = |limit: Duration, key| {
            let limit = limit.as_millis();
            format!("; SET LOCAL lock_timeout = {limit}; SELECT pg_catalog.pg_advisory_xact_lock({key})")
        };
        let undecided = self.undecided.map(|key| lock(self.decision_limit(), key)).unwrap_or_default();
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s'{undecided}{}",
            lock(self.lock_limit, self.key)
        )
    }

    /// How long a transaction waits for the outcome of the one before. What is learned late can be too late for a lease.
    fn decision_limit(&self) -> Duration {
        self.limit.saturating_sub(LOCK_LIMIT).max(self.lock_limit)
    }

    /// Does something with claims: with all at once if the database accepts that, otherwise in smaller parts. Calls `done`
    /// with what comes of each part, and returns the claims that are refused alone.
    ///
    /// # Errors
    /// Returns an error if the server is unavailable.
    pub async fn in_parts<T>(
        &mut self,
        claims: Vec<String>,
        statement: impl AsyncFn(Claims<'_, Client>, &[String]) -> Result<T, Error>,
        mut done: impl FnMut(T),
    ) -> Result<Vec<(String, Error)>, Error> {
        let (mut parts, mut refused) = (vec![claims], Vec::new());
        while let Some(mut part) = parts.pop() {
            match self.transaction(async |claims| statement(claims, &part).await).await {
                Ok(result) => done(result),
                Err(Failed::Outage(error)) => return Err(error),
                Err(Failed::Refused(error)) if part.len() == 1 => {
                    refused.extend(part.pop().map(|claim| (claim, error)))
                }
                Err(Failed::Refused(_)) => {
                    let size = if part.len() > PART { PART } else { 1 };
                    parts.extend(part.chunks(size).map(<[String]>::to_vec));
                }
            }
        }
        Ok(refused)
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

async fn execute(client: &Client, sql: &str) -> Result<(), Error> {
    Ok(client.batch_execute(sql).await?)
}

/// Waits for a response, up to a time limit.
pub async fn within<T>(limit: Duration, response: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(limit, response).await.unwrap_or(Err(Error::Timeout(limit)))
}
