//! A pool of connections.

use std::collections::HashMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;
use tokio_postgres::{CancelToken, Client, GenericClient, Statement};

use crate::Error;
use crate::connect::{PostgresServer, within};

/// A connection that was checked within this time is not checked again before use, unless it is known to be closed.
const FRESH: Duration = Duration::from_secs(1);
/// Time limit of a check.
const TRY_LIMIT: Duration = Duration::from_secs(2);

/// How often the pool looks for connections to close.
const OFTEN: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(30);

/// Limits of a pool.
///
/// ```
/// use std::time::Duration;
/// use pg_workflow_client::pool::Options;
///
/// let options = Options { max_connections: 20, min_connections: 2, ..Options::default() };
/// assert_eq!(options.idle_timeout, Some(Duration::from_secs(600)));
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// Maximum number of connections (at least 1).
    pub max_connections: u32,
    /// Minimum number of open connections, even if idle.
    pub min_connections: u32,
    /// Idle time after which a connection is closed; `None` for never.
    pub idle_timeout: Option<Duration>,
    /// Age at which a returned connection is closed; `None` for never.
    pub max_lifetime: Option<Duration>,
    /// Time limit of waiting for a connection, if all are in use or the server is unavailable.
    pub acquire_timeout: Duration,
    /// Time limit of a statement: the server cancels it then. The client stops waiting shortly after.
    pub statement_timeout: Duration,
    /// Whether connections keep prepared statements. Set it to false for a pooler that gives each transaction another
    /// session and does not support prepared statements (PgBouncer before 1.21).
    pub keeps_statements: bool,
    /// Whether every transaction is read-only.
    pub is_read_only: bool,
}

impl Default for Options {
    /// At most 10 connections and no minimum; 10 minutes idle, 30 minutes of age, 5 s to wait, 30 s for a statement.
    fn default() -> Options {
        Options {
            max_connections: 10,
            min_connections: 0,
            idle_timeout: Some(Duration::from_secs(600)),
            max_lifetime: Some(Duration::from_secs(1800)),
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            keeps_statements: true,
            is_read_only: false,
        }
    }
}

/// Shares connections to one server, opened when they are needed. Cheap to clone.
///
/// ```no_run
/// use pg_workflow_client::{Dags, NewDag, connect::PostgresServer, pool::{Options, Pool}};
///
/// # async fn example() -> Result<(), pg_workflow_client::Error> {
/// let pool = Pool::new(PostgresServer::parse("postgres://alice@db.example/workflow")?, Options::default());
/// let connection = pool.get().await?;
/// let id = Dags::new(&connection).create(&NewDag::named("etl")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Pool {
    connections: bb8::Pool<Manager>,
    acquire_timeout: Duration,
    failure: Failure,
}

impl Pool {
    /// Creates a pool; connects to no server yet.
    ///
    /// # Panics
    /// Panics outside a Tokio runtime, whose tasks open and close connections.
    pub fn new(server: PostgresServer, options: Options) -> Pool {
        let milliseconds = options.statement_timeout.as_millis().max(1);
        // These statements read little: compiling one, which the planner chooses for a large table, takes longer than
        // running it.
        let settings = format!("-c statement_timeout={milliseconds} -c jit=off");
        let max = options.max_connections.max(1);
        let failure = Failure::default();
        let connections = bb8::Pool::builder()
            .max_size(max)
            .min_idle(options.min_connections.min(max))
            .idle_timeout(options.idle_timeout)
            .max_lifetime(options.max_lifetime)
            .connection_timeout(options.acquire_timeout)
            .reaper_rate(reaper_rate(&options))
            .error_sink(Box::new(failure.clone()))
            .build_unchecked(Manager {
                server: server.with_settings(&settings),
                limit: options.statement_timeout + Duration::from_secs(2),
                is_read_only: options.is_read_only,
                keeps_statements: options.keeps_statements,
                failure: failure.clone(),
            });
        Pool { connections, acquire_timeout: options.acquire_timeout, failure }
    }

    /// Takes a connection from the pool. Dropping it returns it.
    ///
    /// # Errors
    /// Returns [`Error::Timeout`] if no connection was free within the time limit; if opening one failed until then,
    /// returns that error.
    pub async fn get(&self) -> Result<Connection, Error> {
        match self.connections.get_owned().await {
            Ok(connection) => Ok(Connection(connection)),
            Err(bb8::RunError::User(error)) => Err(error),
            Err(bb8::RunError::TimedOut) => {
                Err(lock(&self.failure.0).take().unwrap_or(Error::Timeout(self.acquire_timeout)))
            }
        }
    }

    /// Returns the number of open connections, and of idle ones.
    pub fn size(&self) -> (u32, u32) {
        let state = self.connections.state();
        (state.connections, state.idle_connections)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, idle) = self.size();
        write!(out, "Pool({open} connections, {idle} idle)")
    }
}

/// A connection of a [`Pool`]: a [`Client`] that keeps prepared statements.
pub struct Connection(bb8::PooledConnection<'static, Manager>);

impl Connection {
    /// Begins a transaction. Dropping it without [`Transaction::commit`] rolls it back.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let statements = self.0.statements.clone();
        let begun = within(statements.limit(), self.0.client.transaction()).await;
        Ok(Transaction { transaction: statements.watch(begun)?, statements })
    }

    pub(crate) fn statements(&self) -> &Arc<Statements> {
        &self.0.statements
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.0.client
    }
}

/// A transaction on a [`Connection`].
pub struct Transaction<'a> {
    transaction: tokio_postgres::Transaction<'a>,
    statements: Arc<Statements>,
}

impl Transaction<'_> {
    /// Commits the transaction.
    ///
    /// After an error it may have been committed: repeat transitions with their request id.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn commit(self) -> Result<(), Error> {
        self.statements.watch(within(self.statements.limit(), self.transaction.commit()).await)
    }

    /// Rolls back.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn rollback(self) -> Result<(), Error> {
        self.statements.watch(within(self.statements.limit(), self.transaction.rollback()).await)
    }

    pub(crate) fn statements(&self) -> &Arc<Statements> {
        &self.statements
    }
}

impl<'a> Deref for Transaction<'a> {
    type Target = tokio_postgres::Transaction<'a>;

    fn deref(&self) -> &tokio_postgres::Transaction<'a> {
        &self.transaction
    }
}

/// Prepared statements of a connection, and whether it is still usable.
pub struct Statements {
    /// `None` if the connection keeps no statements.
    prepared: Option<Mutex<HashMap<&'static str, Statement>>>,
    limit: Duration,
    /// A statement got no response in time, or its rows are not wanted: the next statement would wait for it.
    hangs: AtomicBool,
    server: PostgresServer,
    cancel: CancelToken,
}

impl Statements {
    pub(crate) fn limit(&self) -> Duration {
        self.limit
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

    /// Marks the connection as unusable after a timeout.
    pub(crate) fn watch<T>(&self, response: Result<T, Error>) -> Result<T, Error> {
        if matches!(response, Err(Error::Timeout(_))) {
            self.hangs.store(true, Ordering::Relaxed);
        }
        response
    }

    /// Cancels a statement whose remaining rows are not wanted: the server would format and send all of them. The
    /// connection is not used again, so this cannot cancel a later statement.
    pub(crate) fn abandon(&self) {
        self.hangs.store(true, Ordering::Relaxed);
        let (server, cancel) = (self.server.clone(), self.cancel.clone());
        tokio::spawn(async move { server.cancel(&cancel).await });
    }
}

/// The last error of opening a connection since one succeeded, for callers that wait in vain.
#[derive(Clone, Debug, Default)]
struct Failure(Arc<Mutex<Option<Error>>>);

impl bb8::ErrorSink<Error> for Failure {
    fn sink(&self, error: Error) {
        *lock(&self.0) = Some(error);
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<Error>> {
        Box::new(self.clone())
    }
}

/// Returns how often to look for connections that are too old: often enough for a short limit.
fn reaper_rate(options: &Options) -> Duration {
    let limits = options.idle_timeout.into_iter().chain(options.max_lifetime);
    limits.map(|limit| limit / 4).min().unwrap_or(SELDOM).clamp(OFTEN, SELDOM)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection in the pool.
struct Member {
    client: Client,
    statements: Arc<Statements>,
    tried_at: Instant,
}

/// Opens and checks the connections of the pool.
struct Manager {
    server: PostgresServer,
    limit: Duration,
    is_read_only: bool,
    keeps_statements: bool,
    failure: Failure,
}

impl bb8::ManageConnection for Manager {
    type Connection = Member;
    type Error = Error;

    async fn connect(&self) -> Result<Member, Error> {
        let client = self.server.connect().await?;
        if self.is_read_only {
            // Not when it connects: of several hosts, the one that takes writes is the primary.
            within(TRY_LIMIT, client.batch_execute("SET default_transaction_read_only = on")).await?;
        }
        lock(&self.failure.0).take();
        let prepared = self.keeps_statements.then(Mutex::default);
        let (server, cancel) = (self.server.clone(), client.cancel_token());
        let hangs = AtomicBool::new(false);
        let statements = Arc::new(Statements { prepared, limit: self.limit, hangs, server, cancel });
        Ok(Member { client, statements, tried_at: Instant::now() })
    }

    async fn is_valid(&self, member: &mut Member) -> Result<(), Error> {
        if member.client.is_closed() || member.tried_at.elapsed() > FRESH {
            within(TRY_LIMIT, member.client.batch_execute("")).await?;
            member.tried_at = Instant::now();
        }
        Ok(())
    }

    fn has_broken(&self, member: &mut Member) -> bool {
        member.client.is_closed() || member.statements.hangs.load(Ordering::Relaxed)
    }
}
