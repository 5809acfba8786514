//! Consumers belong to roles. Row security hides the others' from the functions, which run as their caller.

use crate::errors;
use crate::ffi::plan::Plan;
use crate::ffi::values::text_datum;
use crate::ffi::{member, session};
use pgrx::pg_sys;

/// Whether the current role may use the consumers of this role.
#[pgrx::pg_extern(sql = false)]
fn owns_consumer(owner: &str) -> bool {
    session::has_privileges_of_named(owner) || session::has_privileges_of_named("workflow_admin")
}

/// Raises the error for a consumer that the current role does not see. Names of consumers are no secret: they are
/// unique, and consumer_lag lists them.
#[pgrx::pg_extern(sql = false)]
fn refuse_consumer(name: Option<&str>, tried: Option<&str>) {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT FROM workflow.consumers AS c WHERE c.name OPERATOR(pg_catalog.=) $1".to_owned(),
            &[pg_sys::TEXTOID],
        );
    }
    let (name, tried) = (name.unwrap_or_default(), errors::cut(tried.unwrap_or_default()));
    let exists = member::relation(c"consumers").is_some_and(|(_, owner)| {
        let arguments = [Some(text_datum(name))];
        session::as_owner(owner, || LOOK_UP.with(|plan| plan.run(&arguments, |rows| rows.len() > 0)))
    });
    if exists {
        errors::others_consumer(name, tried);
    }
    errors::missing("consumer", name, tried)
}

#[pgrx::pg_extern(sql = false)]
fn refuse_given_up(name: Option<&str>, since: Option<&str>) {
    errors::given_up(errors::cut(name.unwrap_or_default()), errors::cut(since.unwrap_or_default()))
}

/// Moves all consumers whose position is beyond the last event ID to the beginning. For the owner, after TRUNCATE …
/// RESTART IDENTITY: no event is left, and their numbers begin again.
pub fn restart() {
    thread_local! {
        static RESTART: [Plan; 2] = ["consumers", "consumer_checkpoints"].map(|table| Plan::new(
            format!(
                "UPDATE workflow.{table} SET snapshot = NULL, next_transaction_id = NULL, floor_id = 0, \
                     window_snapshot = NULL, window_next_transaction_id = NULL, window_floor_id = NULL, \
                     window_ceiling_id = NULL, acked_id = 0 \
                 WHERE GREATEST(floor_id, window_ceiling_id) OPERATOR(pg_catalog.>) \
                     COALESCE(pg_catalog.pg_sequence_last_value('workflow.state_history_id_seq'), 0)"
            ),
            &[],
        ));
    }
    RESTART.with(|plans| plans.iter().for_each(|plan| plan.run(&[], |_| ())));
}
