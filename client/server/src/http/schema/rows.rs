//! The JSON of rows and events in `/openapi.json`.
//!
//! The library's types do not depend on HTTP; these types only describe them. A test compares the fields.

#![allow(dead_code, reason = "only descriptions")]

use chrono::{DateTime, Utc};
use utoipa::ToSchema;
use uuid::Uuid;

/// A page of a list.
#[derive(Debug, ToSchema)]
pub struct List<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Cursor of the next page; null on the last page.
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
    /// Schedule, in the format of the scheduler.
    pub schedule: Option<String>,
    /// Start of the schedule. Times outside the years 1 to 9999 are returned as the nearest limit.
    pub start_date: Option<DateTime<Utc>>,
    /// Labels.
    pub tags: Vec<String>,
    /// Whether schedulers must not start new runs.
    pub is_paused: bool,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    pub updated_at: DateTime<Utc>,
}

/// A run of a DAG.
#[derive(Debug, ToSchema)]
pub struct DagRun {
    /// Time-ordered: newer runs have larger ids.
    pub id: Uuid,
    /// Id of the DAG.
    pub dag_id: Uuid,
    /// Execution date. Times outside the years 1 to 9999 are returned as the nearest limit.
    pub execution_date: DateTime<Utc>,
    /// Current state.
    #[schema(schema_with = super::state)]
    pub state: String,
    /// 1 at creation, incremented by each transition.
    pub version: i64,
    /// Parameters of the run, a JSON object.
    #[schema(value_type = Object)]
    pub conf: (),
    /// Time of the last transition to running.
    pub start_date: Option<DateTime<Utc>>,
    /// Time when it finished.
    pub end_date: Option<DateTime<Utc>>,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    pub updated_at: DateTime<Utc>,
}

/// A task of a run.
#[derive(Debug, ToSchema)]
pub struct TaskInstance {
    /// Time-ordered: newer tasks have larger ids.
    pub id: Uuid,
    /// Id of the run.
    pub dag_run_id: Uuid,
    /// Task name, unique in the run.
    pub task_id: String,
    /// Current state.
    #[schema(schema_with = super::state)]
    pub state: String,
    /// 1 at creation, incremented by each transition.
    pub version: i64,
    /// Number of attempts started.
    pub try_number: i32,
    /// Maximum number of attempts, for the scheduler.
    pub max_tries: i32,
    /// Start of the current attempt.
    pub start_date: Option<DateTime<Utc>>,
    /// End of the current attempt.
    pub end_date: Option<DateTime<Utc>>,
    /// Seconds from start to end.
    pub duration: Option<f64>,
    /// Error of the last failed attempt.
    pub error: Option<String>,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    pub updated_at: DateTime<Utc>,
}

/// A line that a task has printed.
#[derive(Debug, ToSchema)]
pub struct TaskLog {
    /// Numbered in the order of arrival.
    pub id: i64,
    /// Id of the task.
    pub task_instance_id: Uuid,
    /// Attempt that printed the line.
    pub try_number: i32,
    /// Time of printing. Times outside the years 1 to 9999 are returned as the nearest limit.
    pub logged_at: DateTime<Utc>,
    /// Severity.
    pub level: LogLevel,
    /// The text.
    pub message: String,
}

/// A task that a worker has claimed.
#[derive(Debug, ToSchema)]
pub struct Claim {
    /// Id of the task.
    pub id: Uuid,
    /// Task name.
    pub task_id: String,
    /// Id of the run.
    pub dag_run_id: Uuid,
    /// Name of the queue; null if the task has left it.
    pub queue: Option<String>,
    /// The worker.
    pub worker: String,
    /// Number of this attempt.
    pub try_number: i32,
    /// Time of the claim.
    pub claimed_at: DateTime<Utc>,
    /// End of the lease. A standby does not know renewals.
    pub lease_expires_at: DateTime<Utc>,
    /// End of the attempt, whatever is renewed; null if it has no timeout.
    pub times_out_at: Option<DateTime<Utc>>,
    /// Time at which the worker was asked to stop.
    pub cancel_requested_at: Option<DateTime<Utc>>,
}

/// A queue from which workers claim tasks.
#[derive(Debug, ToSchema)]
pub struct Queue {
    /// Number of the queue.
    pub id: i64,
    /// Name, unique within the tenant.
    pub name: String,
    /// Tenant of its tasks' DAGs; empty if it is shared.
    pub tenant: String,
    /// How many of its tasks can be claimed at a time; null for any number.
    pub slots: Option<i32>,
    /// No task is claimed before this time. Times outside the years 1 to 9999 are returned as the nearest limit: 9999 means
    /// paused without end.
    pub paused_until: Option<DateTime<Utc>>,
    /// Tasks that can be claimed now.
    pub ready: i64,
    /// Tasks that can be claimed at a later time.
    pub later: i64,
    /// Tasks that a claim has met while their DAG was paused or their run had ended.
    pub parked: i64,
    /// Since when the oldest of the ready tasks waits.
    pub oldest_ready_at: Option<DateTime<Utc>>,
    /// Tasks that workers have claimed.
    pub running: i64,
    /// Claims that found no free slot since the server started; null if the library is not preloaded, and on a standby 0.
    pub refused: Option<i64>,
}

/// The record of a creation, a transition or a deletion, identified by `(entity_id, version)`: versions of an entity count 1, 2, 3 …
#[derive(Debug, ToSchema)]
pub struct Event {
    /// Numbered in the order of writing, which is not the order of commits.
    pub id: i64,
    /// Kind of the entity.
    pub entity_type: EntityType,
    /// Id of the run or the task.
    pub entity_id: Uuid,
    /// Id of its DAG.
    pub dag_id: Uuid,
    /// Id of its run; for a run, its own id.
    pub dag_run_id: Uuid,
    /// Task name; null for a run.
    pub task_id: Option<String>,
    /// State before the transition; null at creation.
    #[schema(schema_with = super::state_or_null)]
    pub old_state: Option<String>,
    /// State after the transition; null at deletion. A run is deleted with its tasks, which have no such event.
    #[schema(schema_with = super::state_or_null)]
    pub new_state: Option<String>,
    /// Version of the entity after the transition; at deletion one more than its last.
    pub version: i64,
    /// Time of the event, by the clock of the database.
    pub changed_at: DateTime<Utc>,
    /// Login role.
    pub actor: String,
    /// Metadata given by the caller; `{}` if a notification omitted it.
    #[schema(value_type = Object, required = false)]
    pub metadata: (),
}

/// Counts of runs or tasks by state.
#[derive(Debug, ToSchema)]
pub struct StateCounts {
    pub queued: i64,
    pub running: i64,
    pub success: i64,
    pub failed: i64,
    pub retrying: i64,
    pub upstream_failed: i64,
    pub skipped: i64,
    /// Sum of all states.
    pub total: i64,
}

/// Severity of a log line.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Debugging detail.
    Debug,
    /// Normal progress.
    Info,
    /// Possible problem.
    Warning,
    /// Error.
    Error,
    /// Error that stops the work.
    Critical,
}

/// The kinds of entities that have a state.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum EntityType {
    /// A run of a DAG.
    DagRun,
    /// A task of a run.
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

    /// Deserializes a row with the fields of `Schema`, and expects the same JSON when it is serialized.
    fn assert_fields<Schema: PartialSchema, Row: DeserializeOwned + Serialize>(json: Value) {
        let row: Row = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&row).unwrap(), json);
        let mut described = field_names::<Schema>();
        described.sort();
        let mut serialized: Vec<&String> = json.as_object().unwrap().keys().collect();
        serialized.sort();
        assert_eq!(described.iter().collect::<Vec<_>>(), serialized);
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
        assert_fields::<Claim, client::list::HeldClaim>(json!({"id": ID, "task_id": "load", "dag_run_id": ID,
            "queue": "default", "worker": "w-7", "try_number": 1, "claimed_at": TIME, "lease_expires_at": TIME,
            "times_out_at": null, "cancel_requested_at": TIME}));
        assert_fields::<Queue, client::Queue>(json!({"id": 1, "name": "default", "tenant": "", "slots": null,
            "paused_until": null, "ready": 2, "later": 0, "parked": 0, "oldest_ready_at": TIME, "running": 1,
            "refused": 0}));
        assert_fields::<Event, event::Event>(json!({"id": 1, "entity_type": "dag_run", "entity_id": ID, "dag_id": ID,
            "dag_run_id": ID, "task_id": null, "old_state": null, "new_state": "queued", "version": 1,
            "changed_at": TIME, "actor": "alice", "metadata": {}}));
        assert_fields::<StateCounts, client::StateCounts>(json!({"queued": 0, "running": 0, "success": 0, "failed": 0,
            "retrying": 0, "upstream_failed": 0, "skipped": 0, "total": 0}));
    }
}
