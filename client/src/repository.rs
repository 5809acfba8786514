//! Repositories: create, read and change DAGs, runs, tasks, logs, claims and history. Each works on a
//! [`Session`](crate::session::Session): a pooled connection, a client, or the caller's own transaction.

mod claims;
mod dag_runs;
mod dags;
mod history;
mod queues;
mod task_instances;
mod task_logs;
mod transition;

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::Error;
use crate::record::Record;
use crate::session::{self, Session};

pub use claims::{ClaimTasks, Claims, Enqueue, FailedClaim, Failure, Finish, Retry};
pub use dag_runs::{DagRunChanges, DagRuns, NewDagRun};
pub use dags::{DagChanges, Dags, NewDag};
pub use history::{Disagreement, History};
pub use queues::Queues;
pub use task_instances::{NewTaskInstances, TaskInstanceChanges, TaskInstances};
pub use task_logs::{NewTaskLog, TaskLogs};
pub use transition::{Outcome, Transition, TransitionMany, TransitionResult};

/// Returns the first row that matches a condition, whose text is constant.
async fn find<T: Record>(
    session: &impl Session,
    condition: &str,
    parameters: &[session::Parameter<'_>],
) -> Result<Option<T>, Error> {
    let sql = format!("SELECT {} FROM {} AS t WHERE {condition}", T::COLUMNS, T::TABLE);
    let rows = session::once(session, &sql, parameters).await?;
    rows.first().map(T::from_row).transpose()
}

/// Changes the row whose id is the first parameter, and returns the new row.
async fn change<T: Record>(
    session: &impl Session,
    assignments: &str,
    id: Uuid,
    parameters: &[session::Parameter<'_>],
) -> Result<T, Error> {
    let sql = format!("UPDATE {} AS t SET {assignments} WHERE t.id = $1 RETURNING {}", T::TABLE, T::COLUMNS);
    let rows = session::once(session, &sql, parameters).await?;
    T::from_row(rows.first().ok_or_else(|| Error::not_found(T::NAME, id))?)
}

/// Deletes the row with this id.
async fn delete<T: Record>(session: &impl Session, id: Uuid) -> Result<(), Error> {
    let sql = format!("DELETE FROM {} WHERE id = $1 RETURNING id", T::TABLE);
    match session::once(session, &sql, &[(&id, Type::UUID)]).await?.is_empty() {
        true => Err(Error::not_found(T::NAME, id)),
        false => Ok(()),
    }
}

/// Returns the ids in the first column.
fn ids(rows: &[tokio_postgres::Row]) -> Result<Vec<Uuid>, Error> {
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Returns at most 100 years: PostgreSQL makes a negative interval of more than 292,000 years.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64().min(100.0 * 365.25 * 86_400.0)
}
