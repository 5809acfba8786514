//! Tasks that a run gets after its first dependencies.
//!
//! The row of the run in `joins` does not list them: that would let their creations wait for each other. The end of the run
//! looks at all its tasks. A transaction that creates tasks has locked the key of the run, and the end of the run excludes it.

use super::tasks::Tasks;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::heap::{Attempted, Heap, Lock, Strength};
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::uuid::Uuid;
use crate::ffi::{member, snapshot};
use crate::joins::waits::{Stored, Wait, Waits};
use crate::joins::{self, Join, Joins};
use crate::{memory, rights};
use pg_workflow_state_machine::State;
use pgrx::pg_sys;

/// How many tasks a run watches before a creation adds none to them. With one, its end would have to find another one.
const ENOUGH: usize = 2;

/// Prepares the creation of a task in a run that is locked. Raises an error if the run has dependencies, and has ended.
/// Returns whether it has dependencies.
pub fn admit(run: Uuid, task: Uuid) -> bool {
    if !super::exist() {
        return false;
    }
    let joins = Joins::open();
    let has_join = snapshot::with_newest(|| joins.has(run));
    joins.close();
    if has_join {
        rights::as_owner_of(joins::TABLE, || {
            refuse_ended(run);
            watch(run, task);
        });
    }
    has_join
}

/// Lets the run watch a new task too, if it does not watch enough. No other transaction can end it before this one commits.
fn watch(run: Uuid, task: Uuid) {
    let waits = Waits::open();
    let watched = snapshot::with_newest(|| {
        let mut matches = waits.by_join();
        let count = waits.of_join(&mut matches, run).iter().filter(|row| !row.wait.is_again()).count();
        matches.close();
        count
    });
    if watched < ENOUGH {
        waits.insert(&[Wait { watched: task, join: run, bound: i32::MAX }]);
    }
    waits.close();
}

/// Raises an error if a run has ended. It stays so until the transaction ends if it has not, but for moves by hand.
pub fn refuse_ended(run: Uuid) {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT r.state FROM workflow.dag_runs AS r WHERE r.id OPERATOR(pg_catalog.=) $1".to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let state = |rows: Rows| if rows.len() > 0 { rows.text(0, 1)?.parse::<State>().ok() } else { None };
    let state = LOOK_UP.with(|plan| plan.run_with_latest(&[Some(run.as_datum())], state));
    if let Some(state) = state.filter(|state| state.is_finished()) {
        errors::run_has_ended(run, state);
    }
}

/// Whether a run still watches a task that has not ended. Then deletes what it watches otherwise.
pub fn is_watched(join: &Join, rows: &[Stored], tasks: &Tasks, waits: &Waits) -> bool {
    if !join.is_of_run() {
        return false;
    }
    let is_past = |row: &Stored| row.wait.is_again() || tasks.has_ended(row.wait.watched);
    let past = memory::collect(rows.iter().copied().filter(is_past));
    if past.len() == rows.len() {
        return false;
    }
    waits.delete(&past);
    true
}

/// Excludes that other transactions create tasks in a run, until this one ends. Returns false if one does now.
pub fn exclude(run: Uuid) -> bool {
    let table = member::relation(EntityType::DagRun.relation()).and_then(|(table, _)| Heap::open(table, Lock::Rows));
    let Some(table) = table else { return false };
    let is_locked = snapshot::with_latest(|| {
        let Some(found) = table.find(table.column("id"), run) else { return false };
        let is_locked = table.try_lock(&found, Strength::Key) == Attempted::Locked;
        found.release();
        is_locked
    });
    table.close();
    is_locked
}
