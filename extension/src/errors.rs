//! The one place that raises errors. Each has a SQLSTATE that drivers know, a message that names the entity and what
//! was tried, a DETAIL that programs read (JSON) and a HINT with the next step.

use crate::entity::EntityType;
use crate::ffi::error::raise;
use crate::ffi::uuid::Uuid;
use pg_workflow_state_machine::State;
use pgrx::PgSqlErrorCode as Code;
use serde_json::{Value, json};

fn names(states: impl IntoIterator<Item = State>) -> String {
    states.into_iter().map(State::as_str).collect::<Vec<_>>().join(", ")
}

/// 23514: the state machine has no such move.
pub fn transition_not_allowed(kind: EntityType, id: Uuid, from: State, to: State) -> ! {
    let next = from.next_states();
    let hint = if from.is_terminal() {
        format!("{from} is terminal: nothing follows it.")
    } else {
        format!("From {from} it can move to: {}.", names(next.iter().copied()))
    };
    raise(
        Code::ERRCODE_CHECK_VIOLATION,
        &format!("{} {id} cannot move from {from} to {to}", kind.as_str()),
        &json!({
            "entity_type": kind.as_str(), "entity_id": id.to_string(), "from": from.as_str(), "to": to.as_str(),
            "next_states": next.iter().map(|state| state.as_str()).collect::<Vec<_>>(),
        }),
        &hint,
    )
}

/// What a caller of `transition` expected of an entity, and what it wanted.
pub struct Attempt {
    pub kind: EntityType,
    pub id: Uuid,
    pub from: State,
    pub to: State,
    pub expected_version: Option<i64>,
}

/// 40001: the entity is not in the state, or at the version, that the caller expected.
pub fn stale(attempt: &Attempt, current_state: &str, current_version: i64) -> ! {
    let Attempt { kind, id, from, to, expected_version } = attempt;
    let expected = match expected_version {
        Some(version) => format!("{from} at version {version}"),
        None => from.to_string(),
    };
    raise(
        Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
        &format!(
            "{} {id} is {current_state} at version {current_version}, not {expected}: it was not moved to {to}",
            kind.as_str()
        ),
        &json!({
            "entity_type": kind.as_str(), "entity_id": id.to_string(), "from": from.as_str(), "to": to.as_str(),
            "expected_version": expected_version,
            "current_state": current_state, "current_version": current_version,
        }),
        "Somebody else moved it. Decide again from its current state.",
    )
}

/// P0002: nothing has this id.
pub fn missing(kind: &str, id: &str, tried: &str) -> ! {
    raise(
        Code::ERRCODE_NO_DATA_FOUND,
        &format!("there is no {kind} {id}: cannot {tried}"),
        &json!({ "entity_type": kind, "entity_id": id }),
        "Check the id; it may have been deleted.",
    )
}

/// 22023: an argument makes no sense.
pub fn invalid(message: &str, detail: &Value, hint: &str) -> ! {
    raise(Code::ERRCODE_INVALID_PARAMETER_VALUE, message, detail, hint)
}

/// 22023 for a function's argument, named, with what it may be.
pub fn invalid_argument(argument: &str, value: &Value, wrong: &str, hint: &str) -> ! {
    invalid(&format!("{argument} {wrong}"), &json!({ "argument": argument, "value": value }), hint)
}

/// 22023: no state has this name (or it is null).
pub fn unknown_state(argument: &str, value: Option<&str>) -> ! {
    let wrong = match value {
        Some(value) => format!("is not a state: \"{value}\""),
        None => "is null".to_owned(),
    };
    invalid_argument(argument, &json!(value), &wrong, &format!("States are {}.", names(State::ALL)))
}

/// 22023: the request ID belongs to an earlier transition of the entity, which is another one.
pub fn reused_request_id(attempt: &Attempt, request_id: &str, from: Option<&str>, to: Option<&str>) -> ! {
    let (kind, id) = (attempt.kind.as_str(), attempt.id);
    let [from_text, to_text] = [from, to].map(|state| state.unwrap_or("no state"));
    invalid(
        &format!("request_id \"{request_id}\" already moved {kind} {id} from {from_text} to {to_text}"),
        &json!({ "argument": "request_id", "value": request_id, "from": from, "to": to }),
        "Use a new request_id for each transition. Repeat one only to retry the same transition.",
    )
}

/// 428C9: a column that the database keeps was set by hand.
pub fn managed_column(kind: &str, id: Uuid, column: &str) -> ! {
    raise(
        Code::ERRCODE_GENERATED_ALWAYS,
        &format!("{kind} {id}: column \"{column}\" cannot be set by hand"),
        &json!({ "entity_type": kind, "entity_id": id.to_string(), "column": column }),
        "The database keeps this column. To move the entity, set its state or call workflow.transition().",
    )
}

/// 42501: a row inserted directly would have no history.
pub fn direct_insert(table: &str, instead: &str) -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        &format!("cannot insert into workflow.{table} directly"),
        &json!({ "table": table }),
        &format!("Call workflow.{instead}(), which writes the history too."),
    )
}

/// 23514: another trigger changed the row behind the guard's back.
pub fn changed_after_guard(kind: EntityType, id: Uuid) -> ! {
    raise(
        Code::ERRCODE_CHECK_VIOLATION,
        &format!("{} {id} was changed by a trigger after the guard had checked it", kind.as_str()),
        &json!({ "entity_type": kind.as_str(), "entity_id": id.to_string() }),
        "Give your BEFORE UPDATE trigger a name that sorts before zz_guard.",
    )
}

/// 55006: a consumer belongs to the holder of a lease, who is not the caller.
pub fn leased(consumer: &str, lease: Option<i64>, holder: Option<&str>, current_lease: Option<i64>) -> ! {
    let (what, hint) = match lease {
        None => {
            let hint = "Read as a consumer of your own (workflow.create_consumer()), or wait until its holder stops.";
            (format!("is leased to {}", holder.unwrap_or("somebody")), hint)
        }
        Some(lease) => {
            let hint = "Take a new lease with workflow.lease_consumer(), and read again from there.";
            (format!("is not yours any more: lease {lease} has ended"), hint)
        }
    };
    raise(
        Code::ERRCODE_OBJECT_IN_USE,
        &format!("consumer \"{consumer}\" {what}"),
        &json!({ "consumer": consumer, "lease": lease, "holder": holder, "current_lease": current_lease }),
        hint,
    )
}

/// 25006: what only the primary can tell was asked of a standby.
pub fn on_standby() -> ! {
    raise(
        Code::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        "the event feed cannot be read on a standby",
        &json!({ "is_standby": true }),
        "Read it on the primary.",
    )
}

/// 23514: the history has no partition for this id; somebody has detached it.
pub fn no_partition(id: i64) -> ! {
    raise(
        Code::ERRCODE_CHECK_VIOLATION,
        &format!("workflow.state_history has no partition for event {id}"),
        &json!({ "table": "state_history", "id": id }),
        "Attach it again, or make one with workflow.make_partition('state_history', number): see the view workflow.partitions.",
    )
}

/// 2BP01: DROP EXTENSION would take all of this with it.
pub fn data_at_stake(rows: &Value) -> ! {
    raise(
        Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        "cannot drop extension pg_workflow: its tables hold data, which would be lost",
        rows,
        "Take a dump first (pg_dump). DROP EXTENSION pg_workflow CASCADE drops the extension with all its data.",
    )
}

/// 42501: row security shows the role a part of the history only, and the feed has all of it.
pub fn feed_of_all_tenants() -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "the event feed has the events of all tenants, of which this role may see its own",
        &json!({ "table": "state_history" }),
        "Read workflow.state_history, or follow the feed as a role with BYPASSRLS.",
    )
}
