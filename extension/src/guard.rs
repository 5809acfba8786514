//! The guard triggers: every UPDATE and every INSERT of an entity passes them, also outside of our functions.

use crate::args;
use crate::call;
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::session;
use crate::ffi::trigger::{BEFORE_INSERT, BEFORE_UPDATE, Row, Trigger, Use};
use crate::ffi::uuid::Uuid;
use crate::fields::{self, Written};
use crate::managed::{Fixed, Managed, error_of, now_after};
use crate::parked;
use crate::queues;
use crate::restore;
use crate::rights::export_trigger;
use crate::unrecorded;
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
    let dag = old.uuid(id).unwrap_or(Uuid([0; 16]));
    if old.uuid(id) != new.uuid(id) {
        errors::managed_column("dag", dag, "id");
    }
    if old.i64(created_at) != new.i64(created_at) {
        errors::managed_column("dag", dag, "created_at");
    }
    fields::check_dag(trigger, Written { old: Some(old), new });
    let is_paused = trigger.column("is_paused");
    if old.bool(is_paused) == Some(true) && new.bool(is_paused) == Some(false) {
        parked::bring_back_dag(dag);
    }
    vec![(updated_at, Some(Datum::from(now_after(old, updated_at))))]
}

fn guard_entity(kind: EntityType, trigger: Trigger, old: &Row, new: &Row) -> Changes {
    let columns = Columns::of(kind, trigger);
    let id = reject_managed(kind, &columns, old, new);
    let written = Written { old: Some(old), new };
    if let Some(task) = columns.task {
        written.check_text("error", task.error);
        task.claim.into_iter().for_each(|claim| queues::check_written(&columns, &claim, old, new));
    }
    if let Some(run) = columns.run {
        written.check_date("execution_date", run.execution_date);
        written.check_jsonb("conf", run.conf);
    }
    let now = now_after(old, columns.updated_at);
    let (from, to) = (old.text(columns.state), new.text(columns.state));
    if from == to {
        return vec![(columns.updated_at, Some(Datum::from(unrecorded::follow(&columns, old, now))))];
    }
    let (from, to) = (args::state("state", from), args::state("state", to));
    if !from.can_transition(to) {
        errors::transition_not_allowed(kind, id, from, to);
    }
    unrecorded::record_pending(kind, &columns, old);
    let call = call::moving(id);
    let current = Managed::of(old, &columns);
    let changed_at = unrecorded::note(id, current.version + 1, [from, to], now, call);
    let hold = Managed::of(new, &columns).hold;
    let by_call = call.and_then(|call| {
        call::request(call, |request| {
            let error = || error_of(to, request.metadata);
            current.changes([from, to], changed_at, request.given(), hold, &columns, error)
        })
    });
    let by_hand = || current.changes([from, to], changed_at, hold.given_by_hand(current.hold), hold, &columns, || None);
    by_call.unwrap_or_else(by_hand)
}

/// Rejects an UPDATE that sets a managed column to another value: ignoring the value would hide the mistake. Values as
/// they are can be written: so do programs that write back whole rows. Returns the entity's ID.
fn reject_managed(kind: EntityType, columns: &Columns, old: &Row, new: &Row) -> Uuid {
    let fixed = Fixed::of(old, columns);
    if let Some(column) = fixed.difference(&Fixed::of(new, columns), kind) {
        errors::managed_column(kind.as_str(), fixed.id, column);
    }
    let (current, written) = (Managed::of(old, columns), Managed::of(new, columns));
    if written.version < current.version {
        let [state, to] = [old, new].map(|row| row.text(columns.state).unwrap_or_default());
        errors::stale_row(kind, fixed.id, to, written.version, state, current.version);
    }
    if let Some(column) = current.difference(written) {
        errors::managed_column(kind.as_str(), fixed.id, column);
    }
    fixed.id
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
