//! A primary to write to, and perhaps a replica that takes reads off it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::types::PgLsn;

use crate::Error;
use crate::pool::{Connection, Pool};
use crate::session;

/// Where to write and where to read.
///
/// Reads may go to a replica (a hot standby), but never to one that is further behind than was asked for: it must have
/// replayed all that the primary had written at some moment within the bound. Where it has not, or nobody can tell because
/// one of the two is away, the read goes to the primary.
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

/// What the looks at both servers have told.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    at: Option<Instant>,
    /// How far the primary had written at a moment.
    written: Option<Mark>,
    /// The replica had all that the primary had written at that moment.
    complete_as_of: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    moment: Instant,
    position: PgLsn,
}

impl Database {
    /// Reads and writes at one place.
    pub fn new(primary: Pool) -> Database {
        Database { primary, replica: None }
    }

    /// Reads from this replica where it is no further behind than `max_staleness`.
    pub fn with_replica(mut self, replica: Pool, max_staleness: Duration) -> Database {
        let seen = Mutex::default();
        self.replica = Some(Arc::new(Replica { pool: replica, max_staleness, seen }));
        self
    }

    /// A connection that writes.
    ///
    /// # Errors
    /// As [`Pool::get`].
    pub async fn write(&self) -> Result<Connection, Error> {
        self.primary.get().await
    }

    /// A connection to read from: of the replica, where it is known to be fresh enough, or of the primary.
    ///
    /// # Errors
    /// As [`Pool::get`] of the primary.
    pub async fn read(&self) -> Result<Connection, Error> {
        if let Some(replica) = &self.replica {
            if replica.is_fresh(&self.primary).await {
                if let Ok(connection) = replica.pool.get().await {
                    return Ok(connection);
                }
                replica.forget();
            }
        }
        self.primary.get().await
    }
}

impl Replica {
    /// Looks at both servers a few times within the bound, so that most reads need not.
    async fn is_fresh(&self, primary: &Pool) -> bool {
        let seen = self.seen();
        if seen.at.is_none_or(|at| at.elapsed() >= self.max_staleness / 4) {
            // Noted first: others go by the last look meanwhile.
            let seen = Seen { at: Some(Instant::now()), ..seen };
            self.note(seen);
            if let Ok(seen) = self.look(primary, seen).await {
                self.note(seen);
            }
        }
        self.seen().complete_as_of.is_some_and(|moment| moment.elapsed() < self.max_staleness)
    }

    /// A replica is always a little behind: it is compared with the mark of the last look too.
    async fn look(&self, primary: &Pool, seen: Seen) -> Result<Seen, Error> {
        let moment = Instant::now();
        // What has been flushed is what a replica can be sent.
        let written = position(primary, "SELECT pg_catalog.pg_current_wal_flush_lsn()").await?;
        let replayed = position(&self.pool, "SELECT pg_catalog.pg_last_wal_replay_lsn()").await?;
        let mark = written.map(|position| Mark { moment, position });
        let reached = [mark, seen.written].into_iter().flatten().find(|mark| replayed >= Some(mark.position));
        Ok(Seen {
            written: mark,
            complete_as_of: reached.map_or(seen.complete_as_of, |mark| Some(mark.moment)),
            ..seen
        })
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    fn forget(&self) {
        self.note(Seen { at: Some(Instant::now()), ..Seen::default() });
    }
}

/// None where the server is not in that role.
async fn position(pool: &Pool, sql: &'static str) -> Result<Option<PgLsn>, Error> {
    let connection = pool.get().await?;
    Ok(session::one(&connection, sql, &[]).await?.try_get(0)?)
}
