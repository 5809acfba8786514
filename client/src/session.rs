//! Sessions, which run statements: clients and transactions of the driver, and pooled connections.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};

use crate::Error;
use crate::connect::{self, within};
use crate::pool::{Connection, Statements, Transaction};

/// A parameter of a statement, with its type, so that the server need not infer it.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Time limit of a statement, if the session sets none.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs the statements of repositories.
///
/// Sessions are each [`GenericClient`] of `tokio_postgres`, each [`connect::Client`], and each [`Connection`] or [`Transaction`] of a
/// [`Pool`](crate::pool::Pool).
///
/// Connections and transactions of a pool keep the statements that they prepared.
pub trait Session: sealed::Sealed + Sync {
    /// The driver's client or transaction.
    type Client: GenericClient + Sync;
    /// The driver's client or transaction.
    fn client(&self) -> &Self::Client;
    /// The same, for statements of this library, which are counted while they are in progress.
    #[doc(hidden)]
    fn driver(&self) -> &Self::Client {
        self.client()
    }
    /// Returns the prepared statements of the connection, if it keeps them.
    fn statements(&self) -> Option<&Arc<Statements>> {
        None
    }
    /// Ends a statement whose remaining rows are not wanted, if the connection is not needed for anything else.
    fn abandon(&self) {}
}

mod sealed {
    pub trait Sealed {}
    impl<C: tokio_postgres::GenericClient> Sealed for C {}
    impl Sealed for crate::connect::Client {}
    impl Sealed for crate::pool::Connection {}
    impl Sealed for crate::pool::Transaction<'_> {}
}

impl<C: GenericClient + Sync> Session for C {
    type Client = C;

    fn client(&self) -> &C {
        self
    }
}

impl Session for connect::Client {
    type Client = tokio_postgres::Client;

    fn client(&self) -> &tokio_postgres::Client {
        self
    }
}

impl Session for Connection {
    type Client = tokio_postgres::Client;

    fn client(&self) -> &tokio_postgres::Client {
        self
    }

    fn driver(&self) -> &tokio_postgres::Client {
        self.driver()
    }

    fn statements(&self) -> Option<&Arc<Statements>> {
        Some(self.statements())
    }

    fn abandon(&self) {
        self.statements().abandon();
    }
}

impl<'a> Session for Transaction<'a> {
    type Client = tokio_postgres::Transaction<'a>;

    fn client(&self) -> &tokio_postgres::Transaction<'a> {
        self
    }

    fn driver(&self) -> &tokio_postgres::Transaction<'a> {
        self.driver()
    }

    fn statements(&self) -> Option<&Arc<Statements>> {
        Some(self.statements())
    }
}

/// Runs a statement with a constant text; prepares it if the session keeps statements.
pub(crate) async fn fixed<S: Session>(
    session: &S,
    sql: &'static str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, Error> {
    let Some(statements) = session.statements() else { return once(session, sql, parameters).await };
    let response = async {
        let types: Vec<Type> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
        let Some(statement) = statements.get(session.driver(), sql, &types).await? else {
            return session.driver().query_typed(sql, parameters).await;
        };
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        session.driver().query(&statement, &values).await
    };
    statements.run(response).await
}

/// Runs a statement that is built for this call: planned for its parameters, and not kept.
pub(crate) async fn once<S: Session>(session: &S, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
    let response = session.driver().query_typed(sql, parameters);
    match session.statements() {
        Some(statements) => statements.run(response).await,
        None => within(LIMIT, response).await,
    }
}

/// The rows of a statement that were read, and whether others were left unread.
pub(crate) struct RowsRead {
    pub rows: Vec<Row>,
    pub is_cut: bool,
}

/// Runs a statement as [`once`] does, and reads its rows while they fit into `max_bytes`, but at least one. The driver
/// discards the others before the next statement.
pub(crate) async fn once_within<S: Session>(
    session: &S,
    sql: &str,
    parameters: &[Parameter<'_>],
    max_bytes: usize,
) -> Result<RowsRead, Error> {
    let response = async {
        let values = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
        let mut stream = pin!(session.driver().query_typed_raw(sql, values).await?);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = stream.try_next().await? {
            bytes += row.raw_size_bytes();
            if bytes > max_bytes && !rows.is_empty() {
                return Ok(RowsRead { rows, is_cut: true });
            }
            rows.push(row);
        }
        Ok(RowsRead { rows, is_cut: false })
    };
    match session.statements() {
        Some(statements) => statements.run(response).await,
        None => within(LIMIT, response).await,
    }
}

/// Runs a statement that always returns one row.
pub(crate) async fn one<S: Session>(
    session: &S,
    sql: &'static str,
    parameters: &[Parameter<'_>],
) -> Result<Row, Error> {
    let row = fixed(session, sql, parameters).await?.into_iter().next();
    row.ok_or_else(|| Error::Unknown("no row".to_owned()))
}
