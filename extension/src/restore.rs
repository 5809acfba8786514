//! Loading a dump: rows that the extension's own functions did not insert.

use crate::counts;
use crate::ffi::plan::Plan;
use crate::ffi::trigger::{BEFORE_INSERT, Trigger, Use};
use crate::rights::export_trigger;
use pgrx::pg_sys::Datum;

export_trigger!(
    prepare_load_wrapper,
    pg_finfo_prepare_load_wrapper,
    prepare_load,
    [Use::new(BEFORE_INSERT, "task_logs"), Use::new(BEFORE_INSERT, "consumer_checkpoints"),]
);

/// BEFORE INSERT FOR EACH STATEMENT, on tables that need nothing else.
fn prepare_load(_: Trigger) -> Datum {
    skip_foreign_keys();
    Datum::null()
}

/// Prepares for entities inserted without their history.
pub fn prepare_entities() {
    counts::forget();
    skip_foreign_keys();
}

/// Skips foreign key checks in a transaction of pg_restore, which loads one table.
///
/// `pg_restore --jobs` loads tables at the same time and in any order. It delays the foreign keys that it restores
/// itself, but not the foreign keys of an extension.
fn skip_foreign_keys() {
    thread_local! {
        static SKIP: Plan = Plan::new(
            "SELECT pg_catalog.set_config('session_replication_role', 'replica', true) \
             FROM pg_catalog.pg_roles AS r \
             WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER AND r.rolsuper \
                AND pg_catalog.current_setting('application_name') OPERATOR(pg_catalog.=) 'pg_restore'"
                .to_owned(),
            &[],
        );
    }
    SKIP.with(|plan| plan.run(&[], |_| ()));
}
