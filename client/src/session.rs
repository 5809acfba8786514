//! Sessions, which run statements: clients and transactions of the driver, and pooled connections.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt, future, stream};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row, RowStream, SimpleQueryStream};

use crate::Error;
use crate::connect::{self, within};
use crate::pool::{Connection, Statements, Transaction};

/// A parameter of a statement, with its type, so that the server need not infer it.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Time limit of a statement, if the session sets none.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

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
    /// Returns the statements with which the transaction of each statement has to begin: behind a pooler.
    #[doc(hidden)]
    fn settings(&self) -> Option<&str> {
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

    fn driver(&self) -> &tokio_postgres::Client {
        self.driver()
    }

    fn settings(&self) -> Option<&str> {
        // There may be a transaction already.
        if self.was_used_directly() { None } else { self.settings() }
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

    fn settings(&self) -> Option<&str> {
        self.settings()
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
    // Behind a pooler none is kept.
    let (Some(statements), None) = (session.statements(), session.settings()) else {
        return once(session, sql, parameters).await;
    };
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

/// Runs a statement that is built for this call: planned for its parameters, and not kept, so that a pooler need not know
/// prepared statements.
///
/// # Errors
/// Returns [`Error::Timeout`] if there is no response within 30 s, or within the time limit of a pool's statements, and the
/// error of the statement.
pub async fn once<S: Session>(session: &S, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
    once_in(session, LIMIT, sql, parameters).await
}

/// Runs a statement as [`once`] does, with another time limit; a pool has its own.
///
/// # Errors
/// See [`once`].
pub async fn once_in<S: Session>(
    session: &S,
    limit: Duration,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, Error> {
    run(session, limit, async { start(session, sql, parameters).await?.all().await }).await
}

/// Runs a statement as [`once_in`] does, but never in a transaction block: a procedure that ends transactions, or a function
/// that must be called alone. Behind a pooler it has the defaults of the database.
///
/// # Errors
/// See [`once`].
pub async fn alone<S: Session>(
    session: &S,
    limit: Duration,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, Error> {
    run(session, limit, session.driver().query_typed(sql, parameters)).await
}

async fn run<S: Session, T>(
    session: &S,
    limit: Duration,
    response: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match session.statements() {
        Some(statements) => statements.run(response).await,
        None => within(limit, response).await,
    }
}

/// A statement whose rows arrive, and the end of its transaction if it has one of its own.
pub(crate) struct Started {
    rows: RowStream,
    commit: Option<SimpleQueryStream>,
}

/// Starts a statement; behind a pooler, in a transaction that has the settings of the connection.
pub(crate) async fn start<S: Session>(
    session: &S,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Started, tokio_postgres::Error> {
    let rows = session.driver().query_typed_raw(sql, parameters.iter().map(|(value, kind)| (*value, kind.clone())));
    let Some(settings) = session.settings() else { return Ok(Started { rows: rows.await?, commit: None }) };
    let (client, begin) = (GenericClient::client(session.driver()), format!("BEGIN; {settings}"));
    // The driver sends the three at once, and the server runs them in this order.
    let (begun, rows, commit) =
        future::join3(client.batch_execute(&begin), rows, client.simple_query_raw("COMMIT")).await;
    begun?;
    Ok(Started { rows: rows?, commit: Some(commit?) })
}

impl Started {
    async fn all(self) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.stream().try_collect().await
    }

    /// Returns the rows, and then an error if the commit fails.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<Row, tokio_postgres::Error>> + use<> {
        let commit = stream::iter(self.commit).flatten();
        self.rows.chain(commit.try_filter_map(|_| future::ok(None)))
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
        let mut stream = pin!(start(session, sql, parameters).await?.stream());
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
    run(session, LIMIT, response).await
}

/// Runs a statement that always returns one row.
pub(crate) async fn one<S: Session>(
    session: &S,
    sql: &'static str,
    parameters: &[Parameter<'_>],
) -> Result<Row, Error> {
    one_of(fixed(session, sql, parameters).await?)
}

pub(crate) fn one_of(rows: Vec<Row>) -> Result<Row, Error> {
    rows.into_iter().next().ok_or_else(|| Error::Unknown("no row".to_owned()))
}
