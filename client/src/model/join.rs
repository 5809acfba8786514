use chrono::{DateTime, Utc};
use pg_workflow_state_machine::{State, TriggerRule, UnknownRule};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::event::state;
use crate::{Error, json};

/// Tasks of a run that wait for the same other ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Join {
    /// Its id.
    pub id: Uuid,
    /// How the parents must have ended.
    pub trigger_rule: TriggerRule,
    /// The names of the tasks that the children wait for.
    pub parents: Vec<String>,
    /// The names of the tasks that wait.
    pub children: Vec<String>,
    /// Whether the children wait no more: they may run, have failed or are skipped.
    pub is_decided: bool,
}

impl Join {
    pub(crate) fn from_row(row: &Row) -> Result<Join, Error> {
        let rule: Result<TriggerRule, UnknownRule> = row.try_get::<_, &str>(1)?.parse();
        Ok(Join {
            id: row.try_get(0)?,
            trigger_rule: rule.map_err(|unknown| Error::Unknown(unknown.to_string()))?,
            parents: row.try_get(2)?,
            children: row.try_get(3)?,
            is_decided: row.try_get(4)?,
        })
    }
}

/// Which failures make a run with dependencies fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailsOn {
    /// Those of any task.
    #[default]
    Tasks,
    /// Only those of tasks on which no other one depends.
    Leaves,
}

impl FailsOn {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            FailsOn::Tasks => "tasks",
            FailsOn::Leaves => "leaves",
        }
    }
}

/// A task that another one waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PendingParent {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub task_id: String,
    /// Its state.
    pub state: State,
    /// Time of its last change.
    #[serde(serialize_with = "json::time")]
    pub since: DateTime<Utc>,
}

impl PendingParent {
    pub(crate) fn from_row(row: &Row) -> Result<PendingParent, Error> {
        Ok(PendingParent {
            id: row.try_get(0)?,
            task_id: row.try_get(1)?,
            state: state(row.try_get(2)?)?,
            since: row.try_get(3)?,
        })
    }
}
