//! The event feed for followers: the caller stores its position, not the database.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::Error;
use crate::connect::STATEMENT_TIMEOUT;
use crate::event::Event;
use crate::session::{self, Parameter, RowsRead, Session};

/// Events that were read together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// At least one event, in the order of the feed.
    pub events: Vec<Event>,
    /// The position after the last of them.
    pub position: String,
}

/// Reads up to `max` events after a position; `None` if there are none.
///
/// If there are none at first, the database waits up to `wait` (a few seconds at most) for one. To be woken by the next
/// event, the session must come from [`feed::connect_to_wait`](crate::feed::connect_to_wait).
///
/// # Errors
/// Returns [`Error::Invalid`] for the argument `position` if the database no longer knows that position, for example
/// after a backup was restored; [`Error::Timeout`] if the database does not respond within 10 s.
///
/// ```no_run
/// use std::time::Duration;
/// use pg_workflow_client::{connect::PostgresServer, feed, position};
///
/// # async fn example() -> Result<(), pg_workflow_client::Error> {
/// let client = feed::connect_to_wait(&PostgresServer::parse("postgres://alice@db.example/workflow")?).await?;
/// let mut at = position::current(&client).await?;
/// while let Some(batch) = position::read(&client, &at, 500, Duration::from_secs(2)).await? {
///     println!("{} events", batch.events.len());
///     at = batch.position;
/// }
/// # Ok(())
/// # }
/// ```
pub async fn read(session: &impl Session, position: &str, max: i32, wait: Duration) -> Result<Option<Batch>, Error> {
    read_within(session, position, max, usize::MAX, wait).await
}

/// Reads events as [`read`] does, but no more than fit into `max_bytes`, as PostgreSQL sends them; at least one.
///
/// # Errors
/// See [`read`].
pub async fn read_within(
    session: &impl Session,
    position: &str,
    mut max: i32,
    max_bytes: usize,
    wait: Duration,
) -> Result<Option<Batch>, Error> {
    let sql = format!(
        "SELECT {}, \"position\" FROM workflow.follow_events($1, $2, pg_catalog.make_interval(secs => $3))",
        Event::COLUMNS
    );
    let wait = wait.as_secs_f64();
    loop {
        let parameters: [Parameter<'_>; 3] = [(&position, Type::TEXT), (&max, Type::INT4), (&wait, Type::FLOAT8)];
        let RowsRead { rows, is_cut } = in_time(session::once_within(session, &sql, &parameters, max_bytes)).await?;
        if is_cut {
            // Only the last row has the position after it.
            max = i32::try_from(rows.len()).unwrap_or(max);
            continue;
        }
        let Some(last) = rows.last() else { return Ok(None) };
        let position = last.try_get("position")?;
        let events = rows.into_iter().map(|row| Event::from_row(&row)).collect::<Result<_, Error>>()?;
        return Ok(Some(Batch { events, position }));
    }
}

/// Returns the position after the latest committed event.
///
/// # Errors
/// Returns [`Error::Postgres`] if the database is unavailable, [`Error::Timeout`] if it does not respond within 10 s.
pub async fn current(session: &impl Session) -> Result<String, Error> {
    let row = in_time(session::one(session, "SELECT workflow.current_position()", &[])).await?;
    Ok(row.try_get(0)?)
}

/// Limits the time of a statement, whatever the limit of its session: a client of the driver has a longer one.
async fn in_time<T>(statement: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(STATEMENT_TIMEOUT, statement).await.unwrap_or(Err(Error::Timeout(STATEMENT_TIMEOUT)))
}
