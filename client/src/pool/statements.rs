//! The statements of a connection: those that it keeps, and those in progress.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Statement};

use super::lock;
use crate::Error;
use crate::connect::within;

/// Prepared statements of a connection, and whether it is still usable.
pub struct Statements {
    /// `None` if the connection keeps no statements.
    prepared: Option<Mutex<HashMap<&'static str, Statement>>>,
    limit: Duration,
    /// Statements whose response has not come: in progress, or given up by a caller that stopped waiting.
    unanswered: AtomicU32,
    /// The driver's client was used directly: such statements are not counted.
    is_used_directly: AtomicBool,
}

impl Statements {
    pub fn new(limit: Duration, keeps_statements: bool) -> Statements {
        let prepared = keeps_statements.then(Mutex::default);
        Statements { prepared, limit, unanswered: AtomicU32::new(0), is_used_directly: AtomicBool::new(false) }
    }

    /// Runs a statement within the time limit.
    ///
    /// If its response does not come, or the caller stops waiting, the connection counts as busy.
    pub(crate) async fn run<T>(
        &self,
        response: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        let response = within(self.limit, response).await;
        if !matches!(response, Err(Error::Timeout(_))) {
            self.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
        response
    }

    pub(crate) async fn get<C: GenericClient>(
        &self,
        client: &C,
        sql: &'static str,
        types: &[Type],
    ) -> Result<Option<Statement>, tokio_postgres::Error> {
        let Some(prepared) = &self.prepared else { return Ok(None) };
        let known = lock(prepared).get(sql).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let statement = client.prepare_typed(sql, types).await?;
        lock(prepared).insert(sql, statement.clone());
        Ok(Some(statement))
    }

    /// Ends a statement whose remaining rows are not wanted, with its connection: the server would format and send all of
    /// them.
    pub(crate) fn abandon(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether a statement may be in progress, which the next one would wait for.
    pub fn is_busy(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }

    pub fn used_directly(&self) {
        self.is_used_directly.store(true, Ordering::Relaxed);
    }

    pub fn is_used_directly(&self) -> bool {
        self.is_used_directly.load(Ordering::Relaxed)
    }

    /// Returns whether the client was used directly since the last call.
    pub fn was_used_directly(&self) -> bool {
        self.is_used_directly.swap(false, Ordering::Relaxed)
    }
}
