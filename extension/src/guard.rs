//! The guard triggers: every UPDATE and every INSERT of an entity passes them, also outside of our functions.

use crate::args;
use crate::call;
use crate::columns::{self, Columns};
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::session;
use crate::ffi::trigger::{BEFORE_INSERT, BEFORE_UPDATE, Row, Trigger, Use};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{clock, text_datum};
use crate::restore;
use crate::rights::export_trigger;
use pg_workflow_state_machine::State;
use pgrx::pg_sys::Datum;

export_trigger!(
    guard_wrapper,
    pg_finfo_guard_wrapper,
    guard,
    [
        Use::new(BEFORE_UPDATE, "task_instances").each_row().argument("task_instance"),
        Use::new(BEFORE_UPDATE, "dag_runs").each_row().argument("dag_run"),
        Use::new(BEFORE_UPDATE, "dags").each_row().argument("dag"),
    ]
);
export_trigger!(
    refuse_insert_wrapper,
    pg_finfo_refuse_insert_wrapper,
    refuse_insert,
    [
        Use::new(BEFORE_INSERT, "task_instances").argument("create_task_instances"),
        Use::new(BEFORE_INSERT, "dag_runs").argument("create_dag_run"),
    ]
);

/// Columns to set in the updated row, by number.
type Changes = Vec<(usize, Option<Datum>)>;

/// BEFORE UPDATE FOR EACH ROW.
fn guard(trigger: Trigger) -> Datum {
    let (old, new) = trigger.old_and_new();
    let changes = match EntityType::parse(trigger.argument()) {
        Some(kind) => guard_entity(kind, trigger, &old, &new),
        None => guard_dag(trigger, &old, &new),
    };
    trigger.new_with(&changes)
}

fn guard_dag(trigger: Trigger, old: &Row, new: &Row) -> Changes {
    let [id, created_at, updated_at] = ["id", "created_at", "updated_at"].map(|name| trigger.column(name));
    let managed = Managed { kind: "dag", id: uuid(old, id), old, new };
    managed.reject_changed_uuid(id, "id");
    managed.reject_changed(created_at, "created_at");
    vec![(updated_at, Some(Datum::from(now_after(old, updated_at))))]
}

fn guard_entity(kind: EntityType, trigger: Trigger, old: &Row, new: &Row) -> Changes {
    let columns = Columns::of(kind, trigger);
    let managed = Managed { kind: kind.as_str(), id: uuid(old, columns.id), old, new };
    managed.reject_changed_uuid(columns.id, "id");
    managed.reject_changed_uuid(columns.parent, columns::parent_name(kind));
    managed.reject_changed(columns.version, "version");
    managed.reject_changed(columns.start_date, "start_date");
    managed.reject_changed(columns.end_date, "end_date");
    managed.reject_changed(columns.created_at, "created_at");
    if let Some(task) = columns.task {
        managed.reject_changed(task.try_number, "try_number");
        managed.reject_changed(task.duration, "duration");
    }

    let now = now_after(old, columns.updated_at);
    let mut changes = vec![(columns.updated_at, Some(Datum::from(now)))];
    let (from, to) = (old.text(columns.state), new.text(columns.state));
    if from != to {
        let (from, to) = (args::state("state", from), args::state("state", to));
        if !from.can_transition(to) {
            errors::transition_not_allowed(kind, managed.id, from, to);
        }
        changes.extend(transition_changes(&columns, managed.id, old, to, now));
    }
    changes
}

/// Returns the changes of managed columns on entering a state.
fn transition_changes(columns: &Columns, id: Uuid, old: &Row, to: State, now: i64) -> Changes {
    let now_datum = Some(Datum::from(now));
    let mut changes = vec![(columns.version, Some(Datum::from(old.i64(columns.version).unwrap_or(0) + 1)))];
    if to == State::Running {
        changes.extend([(columns.start_date, now_datum), (columns.end_date, None)]);
    } else if to.ends_attempt() {
        changes.push((columns.end_date, now_datum));
    }
    let Some(task) = columns.task else { return changes };

    if to == State::Running {
        let try_number = old.i32(task.try_number).unwrap_or(0) + 1;
        changes.extend([(task.try_number, Some(Datum::from(try_number))), (task.duration, None), (task.error, None)]);
    } else if to.ends_attempt() {
        let seconds = old.i64(columns.start_date).map(|start| (now - start) as f64 / 1e6);
        changes.push((task.duration, seconds.map(|seconds| Datum::from(seconds.to_bits()))));
    }
    if to != State::Running
        && let Some(error) = call::request_for(id, |request| request.metadata.get_text("error")).flatten()
    {
        changes.push((task.error, Some(text_datum(&error))));
    }
    changes
}

/// Managed columns: an UPDATE that sets one to another value fails. Ignoring the value would hide the mistake.
struct Managed<'a> {
    kind: &'a str,
    id: Uuid,
    old: &'a Row,
    new: &'a Row,
}

impl Managed<'_> {
    fn reject_changed_uuid(&self, column: usize, name: &str) {
        if self.old.uuid(column) != self.new.uuid(column) {
            errors::managed_column(self.kind, self.id, name);
        }
    }

    /// For types that PostgreSQL passes by value.
    fn reject_changed(&self, column: usize, name: &str) {
        if self.old.i64(column) != self.new.i64(column) {
            errors::managed_column(self.kind, self.id, name);
        }
    }
}

fn uuid(row: &Row, column: usize) -> Uuid {
    row.uuid(column).unwrap_or(Uuid([0; 16]))
}

/// Returns the current time, but never one before the row's last change: time increases with the version.
fn now_after(old: &Row, updated_at: usize) -> i64 {
    clock().max(old.i64(updated_at).unwrap_or(i64::MIN))
}

/// BEFORE INSERT FOR EACH STATEMENT: only the owner inserts (the functions that create entities, and a restore).
fn refuse_insert(trigger: Trigger) -> Datum {
    if !session::has_privileges_of(trigger.table_owner()) {
        errors::direct_insert(&trigger.table_name(), trigger.argument());
    }
    if !call::is_creation() {
        restore::prepare_entities();
    }
    Datum::null()
}
