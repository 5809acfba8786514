//! The stored counts: the triggers that note or discard what the history does not tell.

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
    note_deletion_wrapper,
    pg_finfo_note_deletion_wrapper,
    note_deletion,
    [
        Use::new(AFTER_DELETE, "task_instances").argument(EntityType::TaskInstance.as_str()).old_rows(),
        Use::new(AFTER_DELETE, "dag_runs").argument(EntityType::DagRun.as_str()).old_rows(),
    ]
);
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

/// AFTER DELETE FOR EACH STATEMENT: records how many rows of each state were deleted.
fn note_deletion(trigger: Trigger) -> Datum {
    thread_local! {
        static NOTE: Plan = Plan::new(
            "INSERT INTO workflow.state_count_changes (entity_type, state, delta) VALUES ($1, $2, $3)".to_owned(),
            &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT8OID],
        );
    }
    let state = trigger.column("state");
    let mut changes: BTreeMap<String, i64> = BTreeMap::new();
    trigger.for_each_deletion(|row| {
        let state = row.text(state).unwrap_or_default();
        match changes.get_mut(state) {
            Some(change) => *change -= 1,
            None => _ = changes.insert(state.to_owned(), -1),
        }
    });
    session::as_owner(trigger.table_owner(), || {
        for (state, change) in changes {
            let values = [text_datum(trigger.argument()), text_datum(&state), Datum::from(change)];
            NOTE.with(|plan| plan.run(&values.map(Some), |_| ()));
        }
    });
    Datum::null()
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
