use pg_workflow_state_machine::State;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::Error;
use crate::event::state;

/// Which tasks of a run to run again. By default all that failed, and those that never ran because of them.
///
/// ```
/// use pg_workflow_client::RerunTasks;
///
/// let only_load = RerunTasks { tasks: Some(vec!["load".to_owned()]), downstream: false, ..RerunTasks::default() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RerunTasks {
    /// The names of the tasks; `None`: all that failed.
    pub tasks: Option<Vec<String>>,
    /// Whether those that never ran because of them run, too.
    pub downstream: bool,
    /// Whether to change nothing, and only to return what would happen.
    pub dry_run: bool,
}

impl Default for RerunTasks {
    fn default() -> RerunTasks {
        RerunTasks { tasks: None, downstream: true, dry_run: false }
    }
}

/// A task that runs again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RerunTask {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub task_id: String,
    /// Its state before.
    pub old_state: State,
    /// Its state now.
    pub new_state: State,
    /// Whether it may run at once. Otherwise it waits for its parents.
    pub is_ready: bool,
}

impl RerunTask {
    pub(crate) fn from_row(row: &Row) -> Result<RerunTask, Error> {
        Ok(RerunTask {
            id: row.try_get(0)?,
            task_id: row.try_get(1)?,
            old_state: state(row.try_get(2)?)?,
            new_state: state(row.try_get(3)?)?,
            is_ready: row.try_get(4)?,
        })
    }
}
