//! A call of `workflow.transition()`, `transition_task_instance()` or `transition_dag_run()`.

use pg_workflow_state_machine::State;
use postgres::GenericClient;
use postgres::types::ToSql;
use serde_json::{Value, json};
use uuid::Uuid;

/// A transition that a test makes: `Transition::of(task).from(State::Queued).to(State::Running).run(client)`.
#[derive(Clone)]
pub struct Transition {
    /// The function's name, and its argument `entity_type` if it has one.
    call: &'static str,
    id: Uuid,
    from: State,
    to: State,
    metadata: Value,
    expected_version: Option<i64>,
    request_id: Option<&'static str>,
}

impl Transition {
    /// Begins a transition of a task, from queued to running unless [`from`](Self::from) and [`to`](Self::to) change it.
    pub fn of(task: Uuid) -> Transition {
        Transition::by("transition_task_instance(", task)
    }

    pub fn of_run(run: Uuid) -> Transition {
        Transition::by("transition_dag_run(", run)
    }

    pub fn of_type(entity_type: &str, id: Uuid) -> Transition {
        let is_run = entity_type == "dag_run";
        Transition::by(if is_run { "transition('dag_run', " } else { "transition('task_instance', " }, id)
    }

    fn by(call: &'static str, id: Uuid) -> Transition {
        let (from, to) = (State::Queued, State::Running);
        Transition { call, id, from, to, metadata: json!({}), expected_version: None, request_id: None }
    }

    pub fn from(self, from: State) -> Transition {
        Transition { from, ..self }
    }

    pub fn to(self, to: State) -> Transition {
        Transition { to, ..self }
    }

    pub fn metadata(self, metadata: Value) -> Transition {
        Transition { metadata, ..self }
    }

    /// Requires this version of the entity.
    pub fn version(self, version: i64) -> Transition {
        Transition { expected_version: Some(version), ..self }
    }

    /// Sets the idempotency key.
    pub fn request(self, request_id: &'static str) -> Transition {
        Transition { request_id: Some(request_id), ..self }
    }

    /// Makes the transition, and returns the new version.
    pub fn run(self, client: &mut impl GenericClient) -> Result<i64, postgres::Error> {
        let optional = "metadata => $4, expected_version => $5, request_id => $6";
        let sql = format!("SELECT workflow.{}$1, $2, $3, {optional})", self.call);
        let (from, to) = (self.from.as_str(), self.to.as_str());
        let arguments: [&(dyn ToSql + Sync); 6] =
            [&self.id, &from, &to, &self.metadata, &self.expected_version, &self.request_id];
        Ok(client.query_one(&sql, &arguments)?.get(0))
    }
}

/// Moves a queued task to running.
pub fn start_task(client: &mut impl GenericClient, task: Uuid) {
    Transition::of(task).run(client).expect("the task is queued");
}
