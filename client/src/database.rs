//! A primary to write to, and perhaps a replica that takes reads off it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::types::PgLsn;

use crate::Error;
use crate::pool::{Connection, Pool};
use crate::session;

/// So often within the bound both servers are looked at.
const LOOKS: u32 = 4;

/// Where to write and where to read.
///
/// Reads may go to a replica (a hot standby), but never to one that is further behind than was asked for: it must have
/// replayed all that the primary had written at some moment within the bound before [`Database::read`] returned. Where it has
/// not, or nobody can tell because one of the two is away or nobody has read for a while, the read goes to the primary.
///
/// The replica must follow the primary that is written to: after a promotion, one that goes on following the old primary
/// must not be named here. Commits that do not wait for the disk (`synchronous_commit = off`) count from when they are on
/// disk, some 0.6 s later at most.
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
#[derive(Debug, Default)]
struct Seen {
    is_looking: bool,
    /// When the last look began.
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
            replica.look_now_and_then(&self.primary);
            if let Some(connection) = replica.get_fresh().await {
                return Ok(connection);
            }
        }
        self.primary.get().await
    }
}

impl Replica {
    /// Looks at both servers a few times within the bound. No read waits for that: a server that is away answers late.
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
                Err(error) => tracing::debug!("cannot tell how far behind the replica is: {error}"),
            }
        });
    }

    /// How far the primary has written, and as of when the replica is complete, if that is news. A replica is always a
    /// little behind: it is compared with the mark of the last look too.
    async fn look(&self, primary: &Pool) -> Result<(Option<Mark>, Option<Instant>), Error> {
        let moment = Instant::now();
        // What has been flushed is what a replica can be sent.
        let written = position(primary, "SELECT pg_catalog.pg_current_wal_flush_lsn()").await?;
        let replayed = position(&self.pool, "SELECT pg_catalog.pg_last_wal_replay_lsn()").await?;
        let mark = written.map(|position| Mark { moment, position });
        let reached = [mark, self.seen().written].into_iter().flatten().find(|mark| replayed >= Some(mark.position));
        Ok((mark, reached.map(|mark| mark.moment)))
    }

    /// A connection, where it comes while the replica is fresh enough.
    async fn get_fresh(&self) -> Option<Connection> {
        let remaining = self.remaining()?;
        let connection = tokio::time::timeout(remaining, self.pool.get()).await.ok()?.ok()?;
        self.remaining().map(|_| connection)
    }

    /// How long the replica is fresh enough yet, going by the last look.
    fn remaining(&self) -> Option<Duration> {
        let age = self.seen().complete_as_of?.elapsed();
        self.max_staleness.checked_sub(age).filter(|remaining| !remaining.is_zero())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None where the server is not in that role.
async fn position(pool: &Pool, sql: &'static str) -> Result<Option<PgLsn>, Error> {
    let connection = pool.get().await?;
    Ok(session::one(&connection, sql, &[]).await?.try_get(0)?)
}
