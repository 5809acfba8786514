//! Which failures make a run fail: those of any task, or only those of its leaves, on which no task depends.
//!
//! The rule of the run's own join says so: all_done for any task, none_failed for leaves.

use super::add::lock_run;
use crate::errors;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::text_datum;
use crate::ffi::{session, snapshot};
use crate::joins::{self, Join, Joins};
use crate::{args, memory, rights, tenant};
use pg_workflow_state_machine::TriggerRule;
use pgrx::pg_sys;
use serde_json::json;
use std::collections::HashSet;

/// The most names that an event has.
const MOST_NAMES: usize = 10;

/// The function set_fails_on() of SQL.
#[pgrx::pg_extern(sql = false)]
fn set_fails_on(dag_run_id: Option<pgrx::Uuid>, fails_on: Option<&str>) {
    rights::refuse_restricted_operation();
    let run = Uuid(*args::not_null("dag_run_id", dag_run_id).as_bytes());
    let rule = match args::not_null("fails_on", fails_on) {
        "tasks" => TriggerRule::AllDone,
        "leaves" => TriggerRule::NoneFailed,
        other => errors::invalid_argument(
            "fails_on",
            &json!(errors::cut(other)),
            "must be tasks or leaves",
            "Use leaves if only tasks on which no other one depends make the run fail, else tasks.",
        ),
    };
    if !tenant::sees_run(session::user(), run) {
        refuse_missing_run(run);
    }
    rights::as_owner_of(joins::TABLE, || set(run, rule));
}

fn refuse_missing_run(run: Uuid) -> ! {
    errors::missing("dag_run", &run.to_string(), "set fails_on")
}

/// Locks the run, so that it does not end meanwhile.
fn set(run: Uuid, rule: TriggerRule) {
    thread_local! {
        static SET: Plan = Plan::new(
            "UPDATE workflow.joins AS j SET trigger_rule = $2 WHERE j.id OPERATOR(pg_catalog.=) $1 RETURNING j.id".to_owned(),
            &[pg_sys::UUIDOID, pg_sys::TEXTOID],
        );
    }
    match lock_run(run) {
        None => refuse_missing_run(run),
        Some(state) if state.is_finished() => errors::run_has_ended(run, state),
        Some(_) => {}
    }
    let values = [Some(run.as_datum()), Some(text_datum(rule.as_str()))];
    if SET.with(|plan| plan.run(&values, |rows| rows.len())) == 0 {
        errors::ends_not_itself(run);
    }
}

/// Whether only leaves make the run of this join fail.
pub fn is_by_leaves(join: &Join) -> bool {
    join.rule == TriggerRule::NoneFailed
}

/// Returns how many leaves of a run have failed, and the names of the first ones.
pub fn failed_leaves(run: Uuid) -> (i64, Vec<String>) {
    thread_local! {
        static FAILED: Plan = Plan::new(
            "SELECT t.id, t.task_id FROM workflow.task_instances AS t \
             WHERE t.dag_run_id OPERATOR(pg_catalog.=) $1 \
                 AND '{failed,upstream_failed}'::pg_catalog.text[] OPERATOR(pg_catalog.@>) ARRAY[t.state] \
             ORDER BY t.end_date, t.id"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let read = |rows: Rows| {
        let task = |row| Some((rows.uuid(row, 1)?, memory::copy(rows.text(row, 2)?)));
        memory::collect((0..rows.len()).filter_map(task))
    };
    let mut failed = FAILED.with(|plan| plan.run(&[Some(run.as_datum())], read));
    let mut leaves: HashSet<Uuid> = failed.iter().map(|task| task.0).collect();
    let table = Joins::open();
    // One without children has none any more.
    let joins = snapshot::with_latest(|| table.of_run(run));
    table.close();
    for parent in joins.iter().filter(|join| !join.children.is_empty()).flat_map(|join| &join.parents) {
        leaves.remove(parent);
    }
    failed.retain(|task| leaves.contains(&task.0));
    let count = failed.len() as i64;
    (count, memory::collect(failed.into_iter().take(MOST_NAMES).map(|task| task.1)))
}
