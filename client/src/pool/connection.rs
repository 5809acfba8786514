//! Connections that a pool lends, and their transactions.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tokio_postgres::Client;

use super::manager::Manager;
use super::statements::Statements;
use crate::Error;

/// A connection of a [`Pool`](super::Pool): a [`Client`] that keeps prepared statements.
///
/// If a caller stops waiting for a statement, the connection is closed rather than returned: the next caller would wait
/// for that statement. The pool tests a connection whose [`Client`] was used directly before it lends it again.
pub struct Connection(pub(super) bb8::PooledConnection<'static, Manager>);

impl Connection {
    /// Begins a transaction. Dropping it without [`Transaction::commit`] rolls it back.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let statements = self.0.statements.clone();
        let settings = self.0.client.settings().map(str::to_owned);
        let transaction = statements.run(self.0.client.driver_mut().transaction()).await?;
        if let Some(settings) = settings {
            statements.run(transaction.batch_execute(&settings)).await?;
        }
        Ok(Transaction { transaction, statements })
    }

    pub(crate) fn statements(&self) -> &Arc<Statements> {
        &self.0.statements
    }

    pub(crate) fn driver(&self) -> &Client {
        self.0.client.driver()
    }

    /// Returns the statements with which each statement's own transaction has to begin.
    pub(crate) fn settings(&self) -> Option<&str> {
        // There may be a transaction already.
        if self.0.statements.is_used_directly() { None } else { self.0.client.settings() }
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.0.statements.used_directly();
        self.0.client.driver()
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        self.0.statements.used_directly();
        self.0.client.driver_mut()
    }
}

/// A transaction on a [`Connection`].
pub struct Transaction<'a> {
    transaction: tokio_postgres::Transaction<'a>,
    statements: Arc<Statements>,
}

impl<'a> Transaction<'a> {
    /// Commits the transaction.
    ///
    /// After an error it may have been committed: repeat transitions with their request id.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn commit(self) -> Result<(), Error> {
        self.statements.run(self.transaction.commit()).await
    }

    /// Rolls back.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn rollback(self) -> Result<(), Error> {
        self.statements.run(self.transaction.rollback()).await
    }

    pub(crate) fn statements(&self) -> &Arc<Statements> {
        &self.statements
    }

    pub(crate) fn driver(&self) -> &tokio_postgres::Transaction<'a> {
        &self.transaction
    }
}

impl<'a> Deref for Transaction<'a> {
    type Target = tokio_postgres::Transaction<'a>;

    fn deref(&self) -> &tokio_postgres::Transaction<'a> {
        self.statements.used_directly();
        &self.transaction
    }
}
