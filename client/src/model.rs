//! DAGs, runs and tasks as the database keeps them.

use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::{Row, types::Json};
use uuid::Uuid;

use crate::event::{Event, state};
use crate::{Error, json};

/// A workflow definition.
#[derive(Clone, Debug, Serialize)]
pub struct Dag {
    /// Time-ordered: newer DAGs have larger ids.
    pub id: Uuid,
    /// Unique.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// When to run, as the scheduler spells it.
    pub schedule: Option<String>,
    /// The first moment that the schedule covers; a moment outside the years 1 to 9999 is given as their limit.
    #[serde(serialize_with = "json::moment_or_null")]
    pub start_date: Option<DateTime<Utc>>,
    /// Labels.
    pub tags: Vec<String>,
    /// Whether schedulers start no new run.
    pub is_paused: bool,
    /// When it was created.
    #[serde(serialize_with = "json::moment")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "json::moment")]
    pub updated_at: DateTime<Utc>,
}

/// An execution of a DAG.
#[derive(Clone, Debug, Serialize)]
pub struct DagRun {
    /// Time-ordered: newer runs have larger ids.
    pub id: Uuid,
    /// The DAG.
    pub dag_id: Uuid,
    /// The moment that the run stands for; a moment outside the years 1 to 9999 is given as their limit.
    #[serde(serialize_with = "json::moment")]
    pub execution_date: DateTime<Utc>,
    /// What it is doing.
    #[serde(serialize_with = "json::state")]
    pub state: State,
    /// 1 at creation, one more with each move.
    pub version: i64,
    /// Its parameters, a JSON object.
    pub conf: Box<RawValue>,
    /// When it last began to run.
    #[serde(serialize_with = "json::moment_or_null")]
    pub start_date: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(serialize_with = "json::moment_or_null")]
    pub end_date: Option<DateTime<Utc>>,
    /// When it was created.
    #[serde(serialize_with = "json::moment")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "json::moment")]
    pub updated_at: DateTime<Utc>,
}

/// A task of a run.
#[derive(Clone, Debug, Serialize)]
pub struct TaskInstance {
    /// Time-ordered: newer tasks have larger ids.
    pub id: Uuid,
    /// The run.
    pub dag_run_id: Uuid,
    /// Its name, unique in the run.
    pub task_id: String,
    /// What it is doing.
    #[serde(serialize_with = "json::state")]
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

/// What can be listed: rows with an id that orders them.
pub trait Record: Sized {
    /// What names a row.
    type Id: ToString;
    /// The table, with its schema.
    const TABLE: &'static str;
    /// The columns that [`Record::from_row`] expects.
    const COLUMNS: &'static str;

    /// Reads a row of [`Record::COLUMNS`].
    ///
    /// # Errors
    /// [`Error::Postgres`] or [`Error::Unknown`] where the row is of another version of the extension.
    fn from_row(row: &Row) -> Result<Self, Error>;
    /// Names the row.
    fn id(&self) -> Self::Id;
}

// Moments that users choose can be infinite, or in years that RFC 3339 does not have: one such row must not spoil a
// whole list.
macro_rules! within_rfc_3339 {
    ($column:literal) => {
        // least and greatest pass over null, which must stay null.
        concat!(
            "CASE WHEN ",
            $column,
            " IS NOT NULL THEN least(greatest(",
            $column,
            ", '0001-01-01T00:00:00Z'), '9999-12-31T23:59:59.999999Z') END"
        )
    };
}

impl Record for Dag {
    type Id = Uuid;
    const TABLE: &'static str = "workflow.dags";
    const COLUMNS: &'static str = concat!(
        "id, name, description, schedule, ",
        within_rfc_3339!("start_date"),
        ", tags, is_paused, created_at, updated_at"
    );

    fn from_row(row: &Row) -> Result<Self, Error> {
        let Json(tags) = row.try_get(5)?;
        Ok(Dag {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            description: row.try_get(2)?,
            schedule: row.try_get(3)?,
            start_date: row.try_get(4)?,
            tags,
            is_paused: row.try_get(6)?,
            created_at: row.try_get(7)?,
            updated_at: row.try_get(8)?,
        })
    }

    fn id(&self) -> Uuid {
        self.id
    }
}

impl Record for DagRun {
    type Id = Uuid;
    const TABLE: &'static str = "workflow.dag_runs";
    const COLUMNS: &'static str = concat!(
        "id, dag_id, ",
        within_rfc_3339!("execution_date"),
        ", state, version, conf, start_date, end_date, created_at, updated_at"
    );

    fn from_row(row: &Row) -> Result<Self, Error> {
        let Json(conf) = row.try_get(5)?;
        Ok(DagRun {
            id: row.try_get(0)?,
            dag_id: row.try_get(1)?,
            execution_date: row.try_get(2)?,
            state: state(row.try_get(3)?)?,
            version: row.try_get(4)?,
            conf,
            start_date: row.try_get(6)?,
            end_date: row.try_get(7)?,
            created_at: row.try_get(8)?,
            updated_at: row.try_get(9)?,
        })
    }

    fn id(&self) -> Uuid {
        self.id
    }
}

impl Record for TaskInstance {
    type Id = Uuid;
    const TABLE: &'static str = "workflow.task_instances";
    const COLUMNS: &'static str = "id, dag_run_id, task_id, state, version, try_number, max_tries, start_date, end_date, duration, error, created_at, updated_at";

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

    fn id(&self) -> Uuid {
        self.id
    }
}

impl Record for Event {
    type Id = i64;
    const TABLE: &'static str = "workflow.state_history";
    const COLUMNS: &'static str = Event::COLUMNS;

    fn from_row(row: &Row) -> Result<Self, Error> {
        Event::from_row(row)
    }

    fn id(&self) -> i64 {
        self.id
    }
}
