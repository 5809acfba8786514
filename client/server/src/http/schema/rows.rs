//! The JSON of rows and events, as `/openapi.json` describes it.
//!
//! The library's types know nothing of HTTP; these only describe them. A test compares the fields.

#![allow(dead_code, reason = "these types only describe")]

use chrono::{DateTime, Utc};
use utoipa::ToSchema;
use uuid::Uuid;

/// A page of a list.
#[derive(Debug, ToSchema)]
pub struct List<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page begins; none where there is nothing more.
    pub next_cursor: Option<String>,
}

/// A workflow definition.
#[derive(Debug, ToSchema)]
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
    pub start_date: Option<DateTime<Utc>>,
    /// Labels.
    pub tags: Vec<String>,
    /// Whether schedulers start no new run.
    pub is_paused: bool,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// An execution of a DAG.
#[derive(Debug, ToSchema)]
pub struct DagRun {
    /// Time-ordered: newer runs have larger ids.
    pub id: Uuid,
    /// The DAG.
    pub dag_id: Uuid,
    /// The moment that the run stands for; a moment outside the years 1 to 9999 is given as their limit.
    pub execution_date: DateTime<Utc>,
    /// What it is doing.
    #[schema(schema_with = super::state)]
    pub state: String,
    /// 1 at creation, one more with each move.
    pub version: i64,
    /// Its parameters, a JSON object.
    #[schema(value_type = Object)]
    pub conf: (),
    /// When it last began to run.
    pub start_date: Option<DateTime<Utc>>,
    /// When it ended.
    pub end_date: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// A task of a run.
#[derive(Debug, ToSchema)]
pub struct TaskInstance {
    /// Time-ordered: newer tasks have larger ids.
    pub id: Uuid,
    /// The run.
    pub dag_run_id: Uuid,
    /// Its name, unique in the run.
    pub task_id: String,
    /// What it is doing.
    #[schema(schema_with = super::state)]
    pub state: String,
    /// 1 at creation, one more with each move.
    pub version: i64,
    /// How often it began to run.
    pub try_number: i32,
    /// How often the scheduler may run it.
    pub max_tries: i32,
    /// When this try began to run.
    pub start_date: Option<DateTime<Utc>>,
    /// When this try ended.
    pub end_date: Option<DateTime<Utc>>,
    /// Seconds from start to end.
    pub duration: Option<f64>,
    /// What went wrong.
    pub error: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// A line that a task has printed.
#[derive(Debug, ToSchema)]
pub struct TaskLog {
    /// In the order of arrival.
    pub id: i64,
    /// The task.
    pub task_instance_id: Uuid,
    /// The try that printed it.
    pub try_number: i32,
    /// When it was printed; a moment outside the years 1 to 9999 is given as their limit.
    pub logged_at: DateTime<Utc>,
    /// How much it matters.
    pub level: LogLevel,
    /// The text.
    pub message: String,
}

/// A creation or a move. `(entity_id, version)` identifies it: versions of an entity count 1, 2, 3 …
#[derive(Debug, ToSchema)]
pub struct Event {
    /// In the order of writing, which is not the order of committing.
    pub id: i64,
    /// What kind of thing changed.
    pub entity_type: EntityType,
    /// The run's or the task instance's id.
    pub entity_id: Uuid,
    /// The DAG it belongs to.
    pub dag_id: Uuid,
    /// The run it belongs to, or is.
    pub dag_run_id: Uuid,
    /// The task's name; none for a run.
    pub task_id: Option<String>,
    /// The state left; none at creation.
    #[schema(schema_with = super::state_or_null)]
    pub old_state: Option<String>,
    /// The state entered.
    #[schema(schema_with = super::state)]
    pub new_state: String,
    /// The entity's version after the change.
    pub version: i64,
    /// The database's clock at the change.
    pub changed_at: DateTime<Utc>,
    /// The role that was logged in.
    pub actor: String,
    /// What the caller gave with the move; `{}` where a notification left it out.
    #[schema(value_type = Object, required = false)]
    pub metadata: (),
}

/// How many runs, or tasks, are in each state.
#[derive(Debug, ToSchema)]
pub struct StateCounts {
    pub queued: i64,
    pub running: i64,
    pub success: i64,
    pub failed: i64,
    pub retrying: i64,
    pub upstream_failed: i64,
    pub skipped: i64,
    /// All together.
    pub total: i64,
}

/// How much a line matters.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// For whoever looks for a mistake.
    Debug,
    /// What happens.
    Info,
    /// What may become a problem.
    Warning,
    /// What went wrong.
    Error,
    /// What stops the work.
    Critical,
}

/// The kinds of things that have a state.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum EntityType {
    /// An execution of a DAG.
    DagRun,
    /// A task of such an execution.
    TaskInstance,
}
#[cfg(test)]
mod tests {
    use pg_workflow_client as client;
    use pg_workflow_client::event;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    use super::super::field_names;
    use super::*;

    const ID: &str = "01a20acc-426c-72e1-b99d-ae799985b4ee";
    const TIME: &str = "2026-11-24T08:00:00.000000Z";

    /// Reads a row from JSON with the fields of `Schema`, and expects the same when it is written.
    fn assert_fields<Schema: PartialSchema, Row: DeserializeOwned + Serialize>(json: Value) {
        let row: Row = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&row).unwrap(), json);
        let mut described = field_names::<Schema>();
        described.sort();
        let mut written: Vec<&String> = json.as_object().unwrap().keys().collect();
        written.sort();
        assert_eq!(described.iter().collect::<Vec<_>>(), written);
    }

    #[test]
    fn schemas_have_the_fields_of_the_rows() {
        assert_fields::<Dag, client::Dag>(json!({"id": ID, "name": "etl", "description": null, "schedule": null,
            "start_date": null, "tags": [], "is_paused": false, "created_at": TIME, "updated_at": TIME}));
        assert_fields::<DagRun, client::DagRun>(json!({"id": ID, "dag_id": ID, "execution_date": TIME,
            "state": "queued", "version": 1, "conf": {}, "start_date": null, "end_date": null, "created_at": TIME,
            "updated_at": TIME}));
        assert_fields::<TaskInstance, client::TaskInstance>(json!({"id": ID, "dag_run_id": ID, "task_id": "load",
            "state": "queued", "version": 1, "try_number": 0, "max_tries": 1, "start_date": null, "end_date": null,
            "duration": null, "error": null, "created_at": TIME, "updated_at": TIME}));
        assert_fields::<TaskLog, client::TaskLog>(json!({"id": 1, "task_instance_id": ID, "try_number": 0,
            "logged_at": TIME, "level": "INFO", "message": "hello"}));
        assert_fields::<Event, event::Event>(json!({"id": 1, "entity_type": "dag_run", "entity_id": ID, "dag_id": ID,
            "dag_run_id": ID, "task_id": null, "old_state": null, "new_state": "queued", "version": 1,
            "changed_at": TIME, "actor": "alice", "metadata": {}}));
        assert_fields::<StateCounts, client::StateCounts>(json!({"queued": 0, "running": 0, "success": 0, "failed": 0,
            "retrying": 0, "upstream_failed": 0, "skipped": 0, "total": 0}));
    }
}
