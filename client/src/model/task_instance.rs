use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::event::state;
use crate::record::{Column, Record};
use crate::{Error, json};

/// A task of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskInstance {
    /// Time-ordered: newer tasks have greater ids.
    pub id: Uuid,
    /// The run.
    pub dag_run_id: Uuid,
    /// Its name, unique in the run.
    pub task_id: String,
    /// Its state.
    pub state: State,
    /// 1 at creation, incremented by each transition.
    pub version: i64,
    /// Number of attempts so far.
    pub try_number: i32,
    /// Number of attempts that the scheduler may make.
    pub max_tries: i32,
    /// Time when the current attempt began.
    #[serde(serialize_with = "json::time_or_null")]
    pub start_date: Option<DateTime<Utc>>,
    /// Time when the current attempt finished.
    #[serde(serialize_with = "json::time_or_null")]
    pub end_date: Option<DateTime<Utc>>,
    /// Seconds from `start_date` to `end_date`.
    pub duration: Option<f64>,
    /// Error message of the last failure.
    pub error: Option<String>,
    /// Time of creation.
    #[serde(serialize_with = "json::time")]
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    #[serde(serialize_with = "json::time")]
    pub updated_at: DateTime<Utc>,
}

impl Record for TaskInstance {
    const NAME: &'static str = "task_instance";
    const TABLE: &'static str = "workflow.task_instances";
    const COLUMNS: &'static str = "id, dag_run_id, task_id, state, version, try_number, max_tries, start_date, end_date, duration, error, created_at, updated_at";
    const KEYS: &'static [Column] = &[
        Column { name: "id", kind: Type::UUID },
        Column { name: "dag_run_id", kind: Type::UUID },
        Column { name: "task_id", kind: Type::TEXT },
    ];

    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(TaskInstance {
            id: row.try_get(0)?,
            dag_run_id: row.try_get(1)?,
            task_id: row.try_get(2)?,
            state: state(row.try_get(3)?)?,
            version: row.try_get(4)?,
            try_number: row.try_get(5)?,
            max_tries: row.try_get(6)?,
            start_date: row.try_get(7)?,
            end_date: row.try_get(8)?,
            duration: row.try_get(9)?,
            error: row.try_get(10)?,
            created_at: row.try_get(11)?,
            updated_at: row.try_get(12)?,
        })
    }
}
