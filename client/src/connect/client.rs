//! Connections that leave nothing behind in the server.

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{AsyncMessage, CancelToken, Connection};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::PostgresServer;
use crate::Error;

/// Time to say goodbye: an idle connection ends at once, and a ROLLBACK on its way is still sent.
const GRACE: Duration = Duration::from_millis(100);

/// A connection, opened by [`PostgresServer::connect`]: a [`tokio_postgres::Client`] that ends when it is dropped.
///
/// The driver alone would wait for the response to a statement in progress, however long that takes. Here the
/// connection is closed, and the server ends the statement within a second (`client_connection_check_interval`).
///
/// Behind a pooler each statement of a repository is a transaction of its own, with the settings of
/// [`PostgresServer`]; once the driver's client has been used directly, it is not: there may be a transaction.
pub struct Client {
    client: tokio_postgres::Client,
    pooled: Option<Pooled>,
    /// The driver's client was used directly: it may be in a transaction.
    is_used_directly: AtomicBool,
    _open: DropGuard,
}

/// A connection to a pooler: the next transaction may run in another session, and others may use this one.
struct Pooled {
    /// Statements that give a transaction the settings of the connection.
    settings: Option<String>,
}

impl Client {
    /// Drives a connection until its client is dropped.
    pub(super) fn start<S, T>(
        client: tokio_postgres::Client,
        connection: Connection<S, T>,
        server: PostgresServer,
        hear: impl FnMut(&AsyncMessage) + Send + 'static,
    ) -> Client
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (open, cancel) = (CancellationToken::new(), client.cancel_token());
        tokio::spawn(drive(connection, hear, open.clone(), server, cancel));
        let is_used_directly = AtomicBool::new(false);
        Client { client, pooled: None, is_used_directly, _open: open.drop_guard() }
    }

    /// Notes that the server is a pooler, and what each transaction has to set.
    pub(super) fn set_pooled(&mut self, settings: Option<String>) {
        self.pooled = Some(Pooled { settings });
    }

    /// Returns whether a pooler (PgBouncer) is between this connection and PostgreSQL: it dropped the settings with which
    /// the connection began. Then no state of a session may be relied on.
    pub fn is_pooled(&self) -> bool {
        self.pooled.is_some()
    }

    /// Returns whether the connection has not ended.
    pub fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    /// Returns the statements with which a transaction has to begin.
    pub(crate) fn settings(&self) -> Option<&str> {
        self.pooled.as_ref()?.settings.as_deref()
    }

    pub(crate) fn was_used_directly(&self) -> bool {
        self.is_used_directly.load(Ordering::Relaxed)
    }

    pub(crate) fn driver(&self) -> &tokio_postgres::Client {
        &self.client
    }

    pub(crate) fn driver_mut(&mut self) -> &mut tokio_postgres::Client {
        &mut self.client
    }
}

async fn drive<S, T>(
    connection: Connection<S, T>,
    hear: impl FnMut(&AsyncMessage),
    dropped: CancellationToken,
    server: PostgresServer,
    cancel: CancelToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut driving = pin!(exchange(connection, hear));
    if dropped.run_until_cancelled(&mut driving).await.is_some() {
        return;
    }
    let is_busy = tokio::time::timeout(GRACE, driving).await.is_err();
    if is_busy && server.cancels_statements {
        server.cancel(&cancel).await;
    }
}

/// Exchanges messages with the server until one side ends the connection.
async fn exchange<S, T>(mut connection: Connection<S, T>, mut hear: impl FnMut(&AsyncMessage))
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(message)) => hear(&message),
            Some(Err(error)) => return tracing::debug!("connection ended: {}", Error::from(error)),
            None => return,
        }
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        self.is_used_directly.store(true, Ordering::Relaxed);
        &self.client
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Client {
        self.is_used_directly.store(true, Ordering::Relaxed);
        &mut self.client
    }
}
