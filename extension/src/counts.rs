//! The stored counts: noting deletions without an event, and discarding the counts after changes without one.

use crate::consumers;
use crate::entity::EntityType;
use crate::ffi::plan::Plan;
use crate::ffi::session;
use crate::ffi::trigger::{AFTER_DELETE, AFTER_INSERT, AFTER_TRUNCATE, AFTER_UPDATE, Trigger, Use};
use crate::ffi::values::text_datum;
use crate::rights::{self, export_trigger};
use pgrx::pg_sys::{self, Datum};
use std::collections::BTreeMap;

export_trigger!(
    forget_counts_wrapper,
    pg_finfo_forget_counts_wrapper,
    forget_counts,
    [
        Use::new(AFTER_TRUNCATE, "task_instances"),
        Use::new(AFTER_TRUNCATE, "dag_runs"),
        Use::new(AFTER_INSERT, "state_history"),
        Use::new(AFTER_UPDATE, "state_history"),
        Use::new(AFTER_DELETE, "state_history"),
        Use::new(AFTER_TRUNCATE, "state_history"),
    ]
);

/// Notes the states of deleted entities that have no event. For the owner.
pub fn note_deletions<'a>(kind: EntityType, states: impl Iterator<Item = &'a str>) {
    thread_local! {
        static NOTE: Plan = Plan::new(
            "INSERT INTO workflow.state_count_changes (entity_type, state, delta) VALUES ($1, $2, $3)".to_owned(),
            &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT8OID],
        );
    }
    let mut changes: BTreeMap<&str, i64> = BTreeMap::new();
    states.for_each(|state| *changes.entry(state).or_default() -= 1);
    for (state, change) in changes {
        let values = [text_datum(kind.as_str()), text_datum(state), Datum::from(change)];
        NOTE.with(|plan| plan.run(&values.map(Some), |_| ()));
    }
}

/// AFTER statements that change the entities or the history otherwise than by transitions.
fn forget_counts(trigger: Trigger) -> Datum {
    if trigger.is_on("state_history") {
        rights::refuse_all_but_owner(trigger);
    }
    session::as_owner(trigger.table_owner(), || {
        if trigger.is_on("state_history") && trigger.is_truncate() {
            consumers::restart();
        }
        forget();
    });
    Datum::null()
}

/// Discards the stored counts. For the owner.
pub fn forget() {
    thread_local! {
        static FORGET: Plan = Plan::new("SELECT workflow.forget_state_counts()".to_owned(), &[]);
    }
    FORGET.with(|plan| plan.run(&[], |_| ()));
}
