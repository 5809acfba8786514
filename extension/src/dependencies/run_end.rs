//! A run with dependencies begins with its first claim, and ends when its tasks have ended.

use super::children::{Settled, move_by_statement};
use super::fails_on;
use super::late;
use super::look::refused;
use crate::append::Words;
use crate::direct::{Current, Entities, Move, Step};
use crate::entity::EntityType;
use crate::ffi::heap;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::snapshot;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::joins::waits::Wait;
use crate::joins::{Join, Joins};
use crate::rights;
use pg_workflow_state_machine::State;
use pgrx::pg_sys::{self, Oid};
use serde_json::json;

/// The tasks of a run.
struct Summary {
    /// The state of the run.
    state: State,
    /// A task that has not ended: one in the middle, so that whatever the order in which they end, few are watched.
    unended: Option<Uuid>,
    has_success: bool,
    failed: i64,
    /// The first ones.
    names: Vec<String>,
}

/// Ends a run whose tasks have ended. Returns a row if not all have, or if another look is needed.
pub fn end(join: &Join, hold: impl Fn(Uuid) -> bool, role: Oid) -> Option<Wait> {
    let mut summary = summary_of(join.run)?;
    if summary.unended.is_none() {
        if !late::exclude(join.run) {
            return Some(Wait::again(join.id, join.last_place()));
        }
        // Others may have created tasks.
        summary = snapshot::with_latest(|| summary_of(join.run))?;
    }
    if let Some(task) = summary.unended {
        let again = Wait::again(join.id, join.last_place());
        // It can be a task that was created without dependencies, or one that runs again.
        return Some(if hold(task) { Wait { watched: task, ..again } } else { again });
    }
    let Summary { state, has_success, failed, names, .. } = summary;
    let has_run = has_success || failed > 0;
    let is_by_leaves = fails_on::is_by_leaves(join);
    let (failed, names) = if is_by_leaves && failed > 0 { fails_on::failed_leaves(join.run) } else { (failed, names) };
    let (to, metadata) = match (failed, has_run) {
        (0, true) => (State::Success, json!({ "reason": "tasks_ended" })),
        (0, false) if state == State::Queued => (State::Skipped, json!({ "reason": "tasks_skipped" })),
        (0, false) => (State::Success, json!({ "reason": "tasks_ended" })),
        _ => {
            let reason = if is_by_leaves { "leaves_failed" } else { "tasks_failed" };
            (State::Failed, json!({ "reason": reason, "failed": names, "count": failed }))
        }
    };
    let metadata = Jsonb::of(&metadata);
    let steps: &[State] = match state {
        // Its tasks were moved by hand.
        State::Queued if to == State::Success => &[State::Running, State::Success],
        State::Queued | State::Running | State::Retrying => &[to],
        // It has ended otherwise.
        State::Success | State::Failed | State::UpstreamFailed | State::Skipped => &[],
    };
    let mut from = state;
    for step in steps {
        match advance(join.run, [from, *step], metadata, role, true) {
            Settled::All => {}
            Settled::Busy => return Some(Wait::again(join.id, join.last_place())),
            Settled::Refused => return Some(refused(join)),
        }
        from = *step;
    }
    None
}

fn summary_of(run: Uuid) -> Option<Summary> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT r.state, t.unended, t.has_success, t.failed, t.names \
             FROM workflow.dag_runs AS r CROSS JOIN LATERAL ( \
                 SELECT \
                     (pg_catalog.array_agg(t.id) FILTER (WHERE NOT workflow.is_finished(t.state)))[ \
                         (1 OPERATOR(pg_catalog.+) pg_catalog.count(*) FILTER (WHERE NOT workflow.is_finished(t.state))) \
                             OPERATOR(pg_catalog./) 2] AS unended, \
                     COALESCE(pg_catalog.bool_or(t.state OPERATOR(pg_catalog.=) 'success'), false) AS has_success, \
                     pg_catalog.count(*) FILTER (WHERE '{failed,upstream_failed}'::pg_catalog.text[] \
                         OPERATOR(pg_catalog.@>) ARRAY[t.state]) AS failed, \
                     pg_catalog.to_jsonb((pg_catalog.array_agg(t.task_id ORDER BY t.end_date, t.id) \
                         FILTER (WHERE t.state OPERATOR(pg_catalog.=) 'failed' AND t.try_number OPERATOR(pg_catalog.>) 0))[1:10]) AS names \
                 FROM workflow.task_instances AS t WHERE t.dag_run_id OPERATOR(pg_catalog.=) r.id \
             ) AS t \
             WHERE r.id OPERATOR(pg_catalog.=) $1"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let read = |rows: Rows| {
        (rows.len() > 0).then_some(())?;
        let names = rows.jsonb(0, 5).map(Jsonb::to_json_text).unwrap_or_default();
        Some(Summary {
            state: rows.text(0, 1)?.parse().ok()?,
            unended: rows.uuid(0, 2),
            has_success: rows.get(0, 3).is_some_and(|value| value.value() != 0),
            failed: rows.i64(0, 4),
            names: serde_json::from_str(&names).unwrap_or_default(),
        })
    };
    LOOK_UP.with(|plan| plan.run(&[Some(run.as_datum())], read))
}

/// Moves a run.
fn advance(run: Uuid, [from, to]: [State; 2], metadata: Jsonb, role: Oid, is_at_end: bool) -> Settled {
    let directly = Entities::open(EntityType::DagRun).and_then(|entities| {
        entities.heap.check_publications();
        let decide = |_: &Row, current: Current| (current.state == from).then(|| Move::by_hand(to, None));
        // At its end, the run is locked: nothing is waited for, and PostgreSQL passes its own lock only so.
        let wait = if is_at_end { heap::Wait::Always } else { heap::Wait::Never };
        let step = entities.transition(run, wait, decide);
        let (made, result) = match step {
            Step::Made(made, _) => (Some(made), Some(Settled::All)),
            Step::Locked => (None, Some(Settled::Busy)),
            Step::Unexpected | Step::Concurrent => (None, None),
        };
        entities.record_by(role, made.as_slice(), &[], |_| Words { metadata, request_id: None });
        result
    });
    directly.unwrap_or_else(|| {
        let kind = EntityType::DagRun;
        rights::as_owner_of(kind.relation(), || move_by_statement(kind, &[run], [from, to], metadata, role, is_at_end))
    })
}

/// Starts a queued run with dependencies, of which a task is claimed. If another transaction changes the run, that is left
/// to a later claim, or to its end.
pub fn start(run: Uuid, role: Oid) {
    if !super::exist() {
        return;
    }
    let joins = Joins::open();
    let has_join = snapshot::with_latest(|| joins.has(run));
    joins.close();
    if has_join {
        let kind = EntityType::DagRun;
        rights::as_owner_of(kind.relation(), || {
            let why = Jsonb::object_of("reason", "task_claimed");
            advance(run, [State::Queued, State::Running], why, role, false);
        });
    }
}
