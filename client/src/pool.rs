//! A pool of connections.

mod connection;
mod manager;
mod statements;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Error;
use crate::connect::PostgresServer;
use manager::{Failure, Manager};

pub use connection::{Connection, Transaction};
pub(crate) use statements::Statements;

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
    /// Whether connections keep prepared statements. They keep none behind PgBouncer, which the pool notices by itself:
    /// set this to false for another pooler that gives each transaction another session.
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
    waiting: Arc<AtomicU32>,
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
        let server = server.with_setting("statement_timeout", &milliseconds.to_string()).with_setting("jit", "off");
        let server = match options.is_read_only {
            true => server.with_read_only_transactions().with_cancellation(),
            false => server,
        };
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
            .build_unchecked(Manager::new(server, &options, failure.clone()));
        Pool { connections, acquire_timeout: options.acquire_timeout, failure, waiting: Arc::default() }
    }

    /// Takes a connection from the pool. Dropping it returns it.
    ///
    /// # Errors
    /// Returns [`Error::Timeout`] if no connection was free within the time limit; if opening one failed until then,
    /// returns that error.
    pub async fn get(&self) -> Result<Connection, Error> {
        let _waiting = Waiting::begin(&self.waiting);
        match self.connections.get_owned().await {
            Ok(connection) => Ok(Connection(connection)),
            Err(bb8::RunError::User(error)) => Err(error),
            Err(bb8::RunError::TimedOut) => Err(self.failure.take().unwrap_or(Error::Timeout(self.acquire_timeout))),
        }
    }

    /// Returns the number of open connections, and of idle ones.
    pub fn size(&self) -> (u32, u32) {
        let state = self.connections.state();
        (state.connections, state.idle_connections)
    }

    /// Returns the number of calls of [`Pool::get`] that wait for a connection.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A call that waits, until it is dropped: also when its caller gives up.
struct Waiting<'a>(&'a AtomicU32);

impl Waiting<'_> {
    fn begin(count: &AtomicU32) -> Waiting<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, idle) = self.size();
        write!(out, "Pool({open} connections, {idle} idle)")
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
