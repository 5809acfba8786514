//! Whether tenants are isolated from each other: the setting in `workflow.row_security`, which the policies ask.

use crate::ffi::trigger::{Trigger, export_trigger};
use crate::ffi::{flags, member};
use pgrx::pg_sys::Datum;

export_trigger!(replan_wrapper, pg_finfo_replan_wrapper, replan);

/// Whether row security shows all rows to every role. If the setting is missing, it does not.
#[pgrx::pg_extern(sql = false)]
pub fn shows_all_tenants() -> bool {
    member::relation(c"row_security").is_some_and(|(table, _)| flags::read(table) == [false])
}

/// AFTER changes of row_security.
fn replan(_: Trigger) -> Datum {
    for table in [c"dags", c"dag_runs", c"task_instances", c"task_logs", c"state_history"] {
        flags::replan(table);
    }
    Datum::null()
}
