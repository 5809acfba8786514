//! All errors of the extension. Each has a SQLSTATE that drivers know, a message with the object's name, a DETAIL for
//! programs (JSON), and a HINT with the next step.

use crate::entity::EntityType;
use crate::ffi::error::{raise, warn};
use crate::ffi::jsonb::Jsonb;
use crate::ffi::transaction::Failure;
use crate::ffi::uuid::Uuid;
use pg_workflow_state_machine::State;
use pgrx::PgSqlErrorCode as Code;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::HashSet;

/// The longest part of a caller's value that an error repeats, in characters.
const MAX_SHOWN: usize = 250;

/// Cuts a caller's value for an error.
pub fn cut(text: &str) -> &str {
    text.char_indices().nth(MAX_SHOWN).map_or(text, |(end, _)| &text[..end])
}

/// Cuts the values of a DETAIL that SQL has built.
pub fn cut_detail(detail: Jsonb) -> Value {
    Value::Object(detail.shortened(16, MAX_SHOWN))
}

fn names(states: impl IntoIterator<Item = State>) -> String {
    states.into_iter().map(State::as_str).collect::<Vec<_>>().join(", ")
}

/// 23514: the state machine does not allow the transition.
pub fn transition_not_allowed(kind: EntityType, id: Uuid, from: State, to: State) -> ! {
    let next = from.next_states();
    let hint = if from.is_terminal() {
        format!("Do not move it again: {from} is terminal.")
    } else {
        format!("Move it to one of: {}.", names(next.iter().copied()))
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

/// A transition, as its caller expects it.
pub struct Attempt {
    pub kind: EntityType,
    pub id: Uuid,
    pub from: State,
    pub to: State,
    pub expected_version: Option<i64>,
}

/// 40001: the entity is in another state or at another version than the caller expected.
pub fn stale(attempt: &Attempt, current_state: &str, current_version: i64) -> ! {
    let Attempt { kind, id, from, to, expected_version } = attempt;
    let expected = match expected_version {
        Some(version) => format!("{from} at version {version}"),
        None => from.to_string(),
    };
    raise(
        Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
        &format!("{} {id} is {current_state} at version {current_version}, expected {expected}", kind.as_str()),
        &json!({
            "entity_type": kind.as_str(), "entity_id": id.to_string(), "from": from.as_str(), "to": to.as_str(),
            "expected_version": expected_version,
            "current_state": current_state, "current_version": current_version,
        }),
        "Another client changed it first. Re-read it and decide again.",
    )
}

/// 40001: a statement writes back a row that has changed since it was read.
pub fn stale_row(
    kind: EntityType,
    id: Uuid,
    to: &str,
    written_version: i64,
    current_state: &str,
    current_version: i64,
) -> ! {
    raise(
        Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
        &format!(
            "{} {id} is {current_state} at version {current_version}, expected version {written_version}",
            kind.as_str()
        ),
        &json!({
            "entity_type": kind.as_str(), "entity_id": id.to_string(), "from": null, "to": to,
            "expected_version": written_version,
            "current_state": current_state, "current_version": current_version,
        }),
        "Another client changed it first. Re-read it and decide again. Or update only the columns that change.",
    )
}

/// P0002: no object has this ID; a consumer's ID is its name.
pub fn missing(kind: &str, id: &str, tried: &str) -> ! {
    let [kind, id, tried] = [kind, id, tried].map(cut);
    let (object, hint) = match kind {
        "consumer" => {
            (format!("consumer \"{id}\""), "Check the name. Create a consumer with workflow.create_consumer().")
        }
        _ => (format!("{kind} {id}"), "Check the ID. The row may have been deleted."),
    };
    raise(
        Code::ERRCODE_NO_DATA_FOUND,
        &format!("{object} does not exist: cannot {tried}"),
        &json!({ "entity_type": kind, "entity_id": id }),
        hint,
    )
}

/// 22023: a value is longer than pg_workflow.max_field_size.
pub fn too_long(argument: &str, limit: usize) -> ! {
    let argument = cut(argument);
    let detail = json!({
        "argument": argument, "value": null, "max_bytes": limit, "setting": "pg_workflow.max_field_size",
    });
    let hint = "Store large values elsewhere and write a reference. A superuser can raise pg_workflow.max_field_size.";
    invalid(&format!("{argument} must not be longer than {limit} bytes as text"), &detail, hint)
}

/// 22023: an array has too many elements.
pub fn too_many(argument: &str, count: usize, limit: usize) -> ! {
    invalid(
        &format!("{argument} must not have more than {limit} elements"),
        &json!({ "argument": argument, "value": null, "count": count, "max_count": limit }),
        "Split it into several calls.",
    )
}

/// 54000: the run would have too many tasks.
pub fn too_many_tasks(run: Uuid, count: usize, limit: usize) -> ! {
    raise(
        Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        &format!("dag_run {run} must not have more than {limit} tasks"),
        &json!({
            "entity_type": "dag_run", "entity_id": run.to_string(), "count": count, "max_count": limit,
            "setting": "pg_workflow.max_tasks_per_run",
        }),
        "Spread the tasks over several runs. A superuser can raise pg_workflow.max_tasks_per_run.",
    )
}

/// 55000: the run has ended, so that no task can be added that depends on others.
pub fn run_has_ended(run: Uuid, state: State) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("dag_run {run} has ended: it is {state}"),
        &json!({ "entity_type": "dag_run", "entity_id": run.to_string(), "state": state.as_str() }),
        "Use a run that has not ended.",
    )
}

/// 55000: a run that does not end itself is to end by a rule.
pub fn ends_not_itself(run: Uuid) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("cannot set fails_on of dag_run {run}: it does not end itself"),
        &json!({ "entity_type": "dag_run", "entity_id": run.to_string() }),
        "Create its tasks first, with depends_on. If they depend on none, with depends_on => '{}'.",
    )
}

/// 55000: a run that succeeded or was skipped is to run again.
pub fn run_is_final(run: Uuid, state: State) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("cannot rerun tasks of dag_run {run}: it is {state}, which is final"),
        &json!({ "entity_type": "dag_run", "entity_id": run.to_string(), "state": state.as_str() }),
        "Create another run.",
    )
}

/// 55000: a task that did not fail is to run again.
pub fn has_not_failed(task: Uuid, name: &str, state: State) -> ! {
    let name = cut(name);
    let hint = if state.is_terminal() {
        "A task that succeeded or was skipped is final. Create another task, or another run."
    } else {
        "Only a task that failed runs again. Wait until this one has ended."
    };
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("cannot rerun task \"{name}\": it is {state}"),
        &json!({
            "entity_type": "task_instance", "entity_id": task.to_string(), "task_id": name, "state": state.as_str(),
        }),
        hint,
    )
}

/// 55000: a task is to run again whose parents do not let it.
pub fn would_fail_again(task: Uuid, name: &str, parents: &[&str]) -> ! {
    let name = cut(name);
    let parents: Vec<&str> = parents.iter().map(|parent| cut(parent)).collect();
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("cannot rerun task \"{name}\": its parents would not let it run"),
        &json!({
            "entity_type": "task_instance", "entity_id": task.to_string(), "task_id": name, "parents": parents,
        }),
        "Rerun the parents that failed, too.",
    )
}

/// 55000: a task can depend on no more tasks: it may run already, was started, or has ended.
pub fn takes_no_dependencies(task: Uuid, name: &str, state: State) -> ! {
    let name = cut(name);
    let problem =
        if state == State::Queued { "its parents have let it run".to_owned() } else { format!("it is {state}") };
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("task \"{name}\" can depend on no more tasks: {problem}"),
        &json!({
            "entity_type": "task_instance", "entity_id": task.to_string(), "task_id": name, "state": state.as_str(),
        }),
        "Add dependencies while the task waits, or create another task that depends on these.",
    )
}

/// 22023: a date is infinite.
pub fn infinite(argument: &str) -> ! {
    let argument = cut(argument);
    let hint = format!("Set {argument} to a date.");
    invalid(&format!("{argument} must be finite"), &json!({ "argument": argument, "value": null }), &hint)
}

/// 53200: the memory for a caller's values cannot be allocated.
pub fn out_of_memory() -> ! {
    raise(
        Code::ERRCODE_OUT_OF_MEMORY,
        "out of memory for the values of a statement",
        &json!({ "is_memory": true }),
        "Use fewer or smaller values in a statement.",
    )
}

/// 22023: an argument is invalid.
pub fn invalid(message: &str, detail: &Value, hint: &str) -> ! {
    raise(Code::ERRCODE_INVALID_PARAMETER_VALUE, message, detail, hint)
}

/// 22023: an argument breaks a rule such as "must not be null".
pub fn invalid_argument(argument: &str, value: &Value, rule: &str, hint: &str) -> ! {
    invalid(&format!("{argument} {rule}"), &json!({ "argument": argument, "value": value }), hint)
}

/// 22023: an argument is null or a name that does not exist.
pub fn unknown_name(argument: &str, name: Option<&str>, hint: &str) -> ! {
    let name = name.map(cut);
    let message = match name {
        Some(name) => format!("invalid {argument}: \"{name}\""),
        None => format!("{argument} must not be null"),
    };
    invalid(&message, &json!({ "argument": argument, "value": name }), hint)
}

/// 22023: an argument is null or not the name of a state.
pub fn unknown_state(argument: &str, name: Option<&str>) -> ! {
    unknown_name(argument, name, &format!("Use one of: {}.", names(State::ALL)))
}

/// 22023: the request ID belongs to another transition of the entity.
pub fn reused_request_id(attempt: &Attempt, request_id: &str, from: Option<&str>, to: Option<&str>) -> ! {
    let (kind, id) = (attempt.kind.as_str(), attempt.id);
    let request_id = cut(request_id);
    let [from_text, to_text] = [from, to].map(|state| state.unwrap_or("no state"));
    invalid(
        &format!("request_id \"{request_id}\" already moved {kind} {id} from {from_text} to {to_text}"),
        &json!({ "argument": "request_id", "value": request_id, "from": from, "to": to }),
        "Use a new request_id for each transition. Repeat one only to retry the same transition.",
    )
}

/// 428C9: a statement sets a managed column.
pub fn managed_column(kind: &str, id: Uuid, column: &str) -> ! {
    raise(
        Code::ERRCODE_GENERATED_ALWAYS,
        &format!("cannot set managed column \"{column}\" of {kind} {id}"),
        &json!({ "entity_type": kind, "entity_id": id.to_string(), "column": column }),
        "Omit this column: the database manages it. To move a run or a task, set its state or call \
         workflow.transition().",
    )
}

/// 42501: a directly inserted row would have no history.
pub fn direct_insert(table: &str, instead: &str) -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        &format!("cannot insert into workflow.{table} directly"),
        &json!({ "table": table }),
        &format!("Call workflow.{instead}(), which also writes the history."),
    )
}

/// 42501: a statement writes what only the extension writes.
pub fn for_owner_only(table: &str) -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        &format!("only the owner of workflow.{table} can change its rows"),
        &json!({ "table": table }),
        "Create and move runs and tasks: the database writes their history. To isolate tenants, use workflow.enable_row_security().",
    )
}

/// 23514: another trigger changed the row after the guard trigger.
pub fn changed_after_guard(kind: EntityType, id: Uuid) -> ! {
    raise(
        Code::ERRCODE_CHECK_VIOLATION,
        &format!("a trigger changed {} {id} after the guard trigger checked it", kind.as_str()),
        &json!({ "entity_type": kind.as_str(), "entity_id": id.to_string() }),
        "Rename your BEFORE UPDATE trigger so that its name sorts before zz_guard.",
    )
}

/// 55000: a transition was not recorded by its statement, and its metadata is gone.
pub fn unrecorded(kind: EntityType, id: Uuid) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("the last transition of {} {id} is not in the history", kind.as_str()),
        &json!({ "entity_type": kind.as_str(), "entity_id": id.to_string() }),
        "Enable the trigger zz_record, then repeat the transaction.",
    )
}

/// 39P01: a trigger function was called in another way.
pub fn not_a_trigger(function: &str) -> ! {
    raise(
        Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        &format!("workflow.{function}() was not called as a trigger"),
        &json!({ "function": function }),
        "Do not call it. The triggers of the extension's tables call it.",
    )
}

/// 39P01: a trigger calls a function of the extension that is not made for it.
pub fn foreign_trigger(function: &str, trigger: &str, table: &str) -> ! {
    raise(
        Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        &format!("trigger \"{trigger}\" on table \"{table}\" cannot call workflow.{function}()"),
        &json!({ "function": function, "trigger": trigger, "table": table }),
        "Drop the trigger. Only the triggers that the extension created can call this function.",
    )
}

/// 39P01: an event trigger calls a function of the extension that is not made for it.
pub fn foreign_event_trigger(function: &str) -> ! {
    raise(
        Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        &format!("only ddl_command_start of DROP EXTENSION can call workflow.{function}()"),
        &json!({ "function": function }),
        "Drop the event trigger. Only the one that the extension created can call this function.",
    )
}

/// 42501: code that maintenance runs for a table's owner calls the extension.
pub fn restricted_operation() -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "cannot use pg_workflow within a security-restricted operation",
        &json!({ "is_restricted": true }),
        "Do not call its functions, or change its tables, from an index expression or a materialized view.",
    )
}

/// What is wrong with a table of another role.
#[derive(Clone, Copy)]
pub enum Fault {
    Types,
    Action,
    Expression,
    Code,
}

/// 42501: code of another role would run when rows of ours are compared or deleted.
pub fn unsafe_dependent(table: &str, fault: Fault) -> ! {
    let (key, problem, hint) = match fault {
        Fault::Types => {
            ("types", "has another type than the column that it references", "Give both columns the same type.")
        }
        Fault::Action => (
            "action",
            "has a foreign key with SET NULL, SET DEFAULT or ON UPDATE",
            "Use NO ACTION, RESTRICT or ON DELETE CASCADE.",
        ),
        Fault::Expression => (
            "expression",
            "has a function, an operator or a domain of a user in an index, a constraint, statistics or its partition key",
            "Use only PostgreSQL's own there.",
        ),
        Fault::Code => {
            ("code", "has a trigger or a rule", "Omit ON DELETE CASCADE, or the triggers and rules of the table.")
        }
    };
    let hint = format!("{hint} A superuser can create it: its code runs with the rights of the role that deletes.");
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        &format!("table \"{table}\" cannot belong to DAGs, runs or tasks: it {problem}"),
        &json!({ "table": table, "problem": key }),
        &hint,
    )
}

/// 55006: the consumer is leased to another session, or the caller's lease is no longer valid.
pub fn leased(consumer: &str, lease: Option<i64>, holder: Option<&str>, current_lease: Option<i64>) -> ! {
    let (consumer, holder) = (cut(consumer), holder.map(cut));
    let (message, hint) = match lease {
        None => (
            format!("consumer \"{consumer}\" is leased to {}", holder.unwrap_or("another session")),
            "Wait until its holder stops, or read as another consumer (workflow.create_consumer()).",
        ),
        Some(lease) => (
            format!("lease {lease} of consumer \"{consumer}\" is no longer valid"),
            "Acquire a new lease with workflow.lease_consumer(), then read again.",
        ),
    };
    raise(
        Code::ERRCODE_OBJECT_IN_USE,
        &message,
        &json!({ "consumer": consumer, "lease": lease, "holder": holder, "current_lease": current_lease }),
        hint,
    )
}

/// 42501: the consumer belongs to another role.
pub fn others_consumer(consumer: &str, tried: &str) -> ! {
    let [consumer, tried] = [consumer, tried].map(cut);
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        &format!("permission denied for consumer \"{consumer}\": cannot {tried}"),
        &json!({ "consumer": consumer }),
        "Use a consumer of your own, or ask a member of workflow_admin. The view workflow.consumer_lag shows its owner.",
    )
}

/// 55000: purge() no longer keeps events for the consumer.
pub fn given_up(consumer: &str, since: &str) -> ! {
    let [consumer, since] = [consumer, since].map(cut);
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("consumer \"{consumer}\" was given up: it lagged more than pg_workflow.max_consumer_lag"),
        &json!({ "consumer": consumer, "given_up_at": since }),
        "Call workflow.resume_consumer() to read the events that are still stored, or workflow.drop_consumer().",
    )
}

/// 25001: the function would hold its locks until the end of a longer transaction.
pub fn in_transaction_block(tried: &str) -> ! {
    raise(
        Code::ERRCODE_ACTIVE_SQL_TRANSACTION,
        &format!("cannot {tried} in a transaction block"),
        &json!({ "is_transaction_block": true }),
        "Execute this statement alone, without BEGIN and without other statements in the same query.",
    )
}

/// 25001: in a transaction with a fixed snapshot, each task that another worker has taken since would be an error.
pub fn fixed_snapshot(tried: &str) -> ! {
    raise(
        Code::ERRCODE_ACTIVE_SQL_TRANSACTION,
        &format!("cannot {tried} at isolation level REPEATABLE READ or SERIALIZABLE"),
        &json!({ "is_fixed_snapshot": true }),
        "Use READ COMMITTED.",
    )
}

/// 55000: a trigger claims tasks while another call moves tasks.
pub fn nested_claim() -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "cannot claim tasks within a call that creates or moves runs or tasks",
        &json!({ "is_nested": true }),
        "Claim after the statement, not in a trigger of the extension's tables.",
    )
}

/// 55000: a session in replica mode claims tasks, or the guard trigger is disabled.
pub fn unguarded_claim(action: &str, task: Uuid) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("cannot {action} task_instance {task}: the trigger guard does not fire"),
        &json!({ "entity_type": "task_instance", "entity_id": task.to_string() }),
        "Set session_replication_role to origin, and enable the triggers of workflow.task_instances.",
    )
}

/// 55000: a trigger of an administrator returns NULL for the row.
pub fn withheld_end(task: Uuid) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("cannot end the claim of task_instance {task}: a trigger withholds the change"),
        &json!({ "entity_type": "task_instance", "entity_id": task.to_string() }),
        "Correct the BEFORE trigger on workflow.task_instances that returns NULL.",
    )
}

/// 55000: the same, where it becomes a WARNING that names the task.
pub fn withheld() -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "a trigger or a policy withholds the change",
        &json!({}),
        "Correct the BEFORE trigger on workflow.task_instances that returns NULL, or the policy.",
    )
}

/// 40001: the task is not held by this claim any more.
pub fn lost_claim(claim: &str, task: Uuid, now: Option<(&str, i64)>) -> ! {
    let is_now = match now {
        Some((state, version)) => format!("it is {state} at version {version}"),
        None => "it does not exist".to_owned(),
    };
    let (state, version) = now.unzip();
    raise(
        Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
        &format!("claim of task_instance {task} is lost: {is_now}"),
        &json!({
            "entity_type": "task_instance", "entity_id": task.to_string(), "claim": claim,
            "current_state": state, "current_version": version,
        }),
        "Stop this work: its lease ran out and another worker can have the task, or a client moved it by hand.",
    )
}

/// 55000: an index that the extension reads is missing.
pub fn missing_index(name: &str) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("index workflow.{name} is missing or not valid"),
        &json!({ "index": name }),
        "Create it again as CREATE EXTENSION does, or REINDEX it.",
    )
}

/// A WARNING: something, such as a trigger of others, refuses what the end of its parents, or of its tasks, does to an entity.
pub fn refused_move(kind: EntityType, id: Uuid, to: State, failure: &Failure) {
    let kind = kind.as_str();
    warn(
        failure.code,
        &format!("cannot move {kind} {id} to {to}: {}", failure.message),
        "Remove the cause: reap_claims() tries again every 10 s. Or move it by hand.",
    );
}

/// A WARNING: as above, where the trigger returns NULL.
pub fn withheld_move(kind: EntityType, id: Uuid, to: State) {
    let kind = kind.as_str();
    warn(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE as i32,
        &format!("cannot move {kind} {id} to {to}: a trigger withholds the change"),
        "Correct the BEFORE trigger that returns NULL: reap_claims() tries again every 10 s. Or move it by hand.",
    );
}

/// A WARNING: the database refuses what a call would do with a task; it continues with the others.
pub fn refused_task(action: &str, task: Uuid, hint: &str, failure: &Failure) {
    warn(failure.code, &format!("cannot {action} task_instance {task}: {}", failure.message), hint);
}

/// A WARNING: statement_timeout has passed before all claims were ended that had run out.
pub fn timed_out_reap(failure: &Failure) {
    warn(
        failure.code,
        &format!("cannot end all claims that have run out: {}", failure.message),
        "Call it again: those that were ended stay ended. Set statement_timeout to a longer time.",
    );
}

/// A WARNING: what a session that waits for tasks does for others has failed.
pub fn failed_for_others(action: &str, failure: &Failure) {
    warn(
        failure.code,
        &format!("cannot {action}: {}", failure.message),
        "The session waits on, and another one tries again within seconds. Remove the cause.",
    );
}

/// A NOTICE: no tasks were ever added to a queue of this name. Once a session for each name.
pub fn unknown_queue(name: &str) {
    thread_local! {
        static TOLD: RefCell<HashSet<String>> = RefCell::new(HashSet::new());
    }
    let is_new = TOLD.with_borrow_mut(|told| told.len() < 1000 && told.insert(name.to_owned()));
    if is_new {
        pgrx::notice!("queue \"{}\" does not exist: it has no tasks to claim", cut(name));
    }
}

/// 25006: the event feed needs values that only a primary has.
pub fn on_standby() -> ! {
    raise(
        Code::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        "cannot read the event feed on a standby",
        &json!({ "is_standby": true }),
        "Read it from the primary.",
    )
}

/// 23514: the history has no partition for this ID, because it was detached.
pub fn no_partition(id: i64) -> ! {
    raise(
        Code::ERRCODE_CHECK_VIOLATION,
        &format!("workflow.state_history has no partition for event {id}"),
        &json!({ "table": "state_history", "id": id }),
        "If it is the next one, an administrator calls open_partitions(). If it was detached, attach it again. If it was \
         dropped, execute ALTER EXTENSION pg_workflow UPDATE, then SELECT workflow.create_partition('state_history', number). \
         See the view workflow.partitions.",
    )
}

/// 55000: an object with the name of one of the extension's objects does not belong to the extension.
pub fn not_a_member(object: &str) -> ! {
    raise(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        &format!("{object} is not an object of the extension pg_workflow"),
        &json!({ "object": object }),
        "Remove or rename the other object of this name. See \\dx+ pg_workflow for the extension's objects.",
    )
}

/// 2BP01: DROP EXTENSION would delete data.
pub fn data_at_stake(rows: &Value) -> ! {
    raise(
        Code::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        "cannot drop extension pg_workflow because its tables contain data",
        rows,
        "Take a dump with pg_dump, then use DROP EXTENSION pg_workflow CASCADE. It deletes all data.",
    )
}

/// 42501: the role may read none of these.
pub fn cannot_read(objects: &[&str]) -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        &format!("permission denied for {}", objects.join(", ")),
        &json!({ "objects": objects }),
        "Ask an administrator for membership in workflow_reader.",
    )
}

/// 42501: row security hides a part of the history from the role, but the feed has all events.
pub fn feed_of_all_tenants() -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "permission denied for the event feed: row security applies to this role",
        &json!({ "table": "state_history" }),
        "Read workflow.state_history, or read the feed as a role with BYPASSRLS.",
    )
}
