//! A primary to write to, and optionally a standby to read from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::types::PgLsn;

use crate::Error;
use crate::pool::{Connection, Pool};
use crate::session;

/// Both servers are checked this often within the maximum staleness.
const LOOKS: u32 = 4;

/// Routes writes to the primary and reads to a standby that is fresh enough.
///
/// A read goes to the standby only if its lag is within the maximum staleness: the standby must have replayed
/// everything that the primary had written at some point within that time before [`Database::read`] returned.
/// Otherwise the read goes to the primary; also if one of the two is unavailable, or if there was no read for a
/// while.
///
/// The standby must follow the primary that is written to. Do not use a standby that still follows the old primary
/// after a promotion. Commits that do not wait for the disk (`synchronous_commit = off`) count from the time when
/// they are on disk, about 0.6 s later at most.
///
/// ```no_run
/// use std::time::Duration;
/// use pg_workflow_client::{TaskInstances, connect::PostgresServer, database::Database, pool::{Options, Pool}};
///
/// # async fn example(id: uuid::Uuid) -> Result<(), pg_workflow_client::Error> {
/// let primary = Pool::new(PostgresServer::parse("postgres://alice@a.example,b.example/workflow")?, Options::default());
/// let replica = PostgresServer::parse("postgres://alice@b.example/workflow?target_session_attrs=any")?;
/// let replica = Pool::new(replica, Options { is_read_only: true, ..Options::default() });
/// let database = Database::new(primary).with_replica(replica, Duration::from_secs(2));
///
/// let task = TaskInstances::new(&database.read().await?).get(id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Database {
    primary: Pool,
    replica: Option<Arc<Replica>>,
}

#[derive(Debug)]
struct Replica {
    pool: Pool,
    max_staleness: Duration,
    seen: Mutex<Seen>,
}

/// The results of the checks.
#[derive(Debug, Default)]
struct Seen {
    is_looking: bool,
    /// Start of the last check.
    at: Option<Instant>,
    /// WAL position of the primary at a point in time.
    written: Option<Mark>,
    /// The standby has replayed everything that the primary had written at this time.
    complete_as_of: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    time: Instant,
    position: PgLsn,
}

impl Database {
    /// Reads from and writes to the primary.
    pub fn new(primary: Pool) -> Database {
        Database { primary, replica: None }
    }

    /// Reads from this standby if its lag is at most `max_staleness`.
    pub fn with_replica(mut self, replica: Pool, max_staleness: Duration) -> Database {
        let seen = Mutex::default();
        self.replica = Some(Arc::new(Replica { pool: replica, max_staleness, seen }));
        self
    }

    /// Returns the pool of the primary, and the one of the standby if there is one.
    pub fn pools(&self) -> (&Pool, Option<&Pool>) {
        (&self.primary, self.replica.as_ref().map(|replica| &replica.pool))
    }

    /// Returns a connection to the primary.
    ///
    /// # Errors
    /// See [`Pool::get`].
    pub async fn write(&self) -> Result<Connection, Error> {
        self.primary.get().await
    }

    /// Returns a connection to read from.
    ///
    /// It is one to the standby if that is known to be fresh enough, otherwise one to the primary.
    ///
    /// # Errors
    /// See [`Pool::get`], of the primary.
    pub async fn read(&self) -> Result<Connection, Error> {
        if let Some(replica) = &self.replica {
            replica.look_now_and_then(&self.primary);
            if let Some(connection) = replica.get_fresh().await {
                return Ok(connection);
            }
        }
        self.primary.get().await
    }
}

impl Replica {
    /// Checks both servers a few times within the maximum staleness. No read waits for it: an unavailable server
    /// responds late.
    fn look_now_and_then(self: &Arc<Self>, primary: &Pool) {
        let mut seen = self.seen();
        if seen.is_looking || seen.at.is_some_and(|at| at.elapsed() < self.max_staleness / LOOKS) {
            return;
        }
        (seen.is_looking, seen.at) = (true, Some(Instant::now()));
        let (replica, primary) = (self.clone(), primary.clone());
        tokio::spawn(async move {
            let looked = replica.look(&primary).await;
            let mut seen = replica.seen();
            seen.is_looking = false;
            match looked {
                Ok((written, complete_as_of)) => {
                    seen.written = written;
                    seen.complete_as_of = complete_as_of.or(seen.complete_as_of);
                }
                Err(error) => tracing::debug!("cannot measure the lag of the standby: {error}"),
            }
        });
    }

    /// Returns the position of the primary, and the time as of which the standby is complete, if it has advanced. A
    /// standby always lags a little, so it is also compared with the mark of the last check.
    async fn look(&self, primary: &Pool) -> Result<(Option<Mark>, Option<Instant>), Error> {
        let time = Instant::now();
        // Only flushed WAL is sent to a standby.
        let written = position(primary, "SELECT pg_catalog.pg_current_wal_flush_lsn()").await?;
        let replayed = position(&self.pool, "SELECT pg_catalog.pg_last_wal_replay_lsn()").await?;
        let mark = written.map(|position| Mark { time, position });
        let reached = [mark, self.seen().written].into_iter().flatten().find(|mark| replayed >= Some(mark.position));
        Ok((mark, reached.map(|mark| mark.time)))
    }

    /// Returns a connection if one is available while the standby is fresh enough.
    async fn get_fresh(&self) -> Option<Connection> {
        let remaining = self.remaining()?;
        let connection = tokio::time::timeout(remaining, self.pool.get()).await.ok()?.ok()?;
        self.remaining().map(|_| connection)
    }

    /// Returns how much longer the standby is fresh enough, by the last check.
    fn remaining(&self) -> Option<Duration> {
        let age = self.seen().complete_as_of?.elapsed();
        self.max_staleness.checked_sub(age).filter(|remaining| !remaining.is_zero())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `None` if the server is not in that role.
async fn position(pool: &Pool, sql: &'static str) -> Result<Option<PgLsn>, Error> {
    let connection = pool.get().await?;
    Ok(session::one(&connection, sql, &[]).await?.try_get(0)?)
}
