//! Loading a dump: rows that the extension's own functions did not insert.

use crate::counts;
use crate::ffi::plan::Plan;
use crate::ffi::session;
use crate::ffi::trigger::{BEFORE_INSERT, Trigger, Use};
use crate::rights::export_trigger;
use pgrx::pg_sys::Datum;

export_trigger!(
    prepare_load_wrapper,
    pg_finfo_prepare_load_wrapper,
    prepare_load,
    [
        Use::new(BEFORE_INSERT, "task_logs"),
        Use::new(BEFORE_INSERT, "consumer_checkpoints"),
        Use::new(BEFORE_INSERT, "parked"),
        Use::new(BEFORE_INSERT, "joins"),
        Use::new(BEFORE_INSERT, "waits"),
    ]
);

/// BEFORE INSERT FOR EACH STATEMENT, on tables that need nothing else.
fn prepare_load(_: Trigger) -> Datum {
    skip_foreign_keys();
    Datum::null()
}

export_trigger!(
    forget_origin_wrapper,
    pg_finfo_forget_origin_wrapper,
    forget_origin,
    [Use::new(BEFORE_INSERT, "consumers").each_row()]
);

/// BEFORE INSERT FOR EACH ROW: no database has this origin.
fn forget_origin(trigger: Trigger) -> Datum {
    trigger.new_with(&[(trigger.column("system_identifier"), Some(Datum::from(0i64)))])
}

/// Prepares for entities inserted without their history.
pub fn prepare_entities() {
    counts::forget();
    skip_foreign_keys();
}

/// Skips foreign key checks in a transaction of pg_restore, which loads one table, or all with --single-transaction.
///
/// `pg_restore --jobs` and `--use-list` load tables in any order. They delay the foreign keys that they restore
/// themselves, but not the foreign keys of an extension. Any role can name its session pg_restore, and fire our triggers
/// in a function that runs as its owner: only a superuser who could set this by hand gets it.
fn skip_foreign_keys() {
    thread_local! {
        static SKIP: Plan = Plan::new(
            "SELECT pg_catalog.set_config('session_replication_role', 'replica', true)".to_owned(),
            &[],
        );
    }
    if session::application_name() == c"pg_restore" && session::is_acting_superuser() {
        SKIP.with(|plan| plan.run(&[], |_| ()));
    }
}
