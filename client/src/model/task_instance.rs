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
    /// Time-ordered: newer tasks have larger ids.
    pub id: Uuid,
    /// The run.
    pub dag_run_id: Uuid,
    /// Its name, unique in the run.
    pub task_id: String,
    /// What it is doing.
    pub state: State,
    /// 1 at creation, one more with each move.
    pub version: i64,
    /// How often it began to run.
    pub try_number: i32,
    /// How often the scheduler may run it.
    pub max_tries: i32,
    /// When this try began to run.
    #[serde(serialize_with = "json::moment_or_null")]
    pub start_date: Option<DateTime<Utc>>,
    /// When this try ended.
    #[serde(serialize_with = "json::moment_or_null")]
    pub end_date: Option<DateTime<Utc>>,
    /// Seconds from start to end.
    pub duration: Option<f64>,
    /// What went wrong.
    pub error: Option<String>,
    /// When it was created.
    #[serde(serialize_with = "json::moment")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "json::moment")]
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
