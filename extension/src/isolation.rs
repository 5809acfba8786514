//! Whether tenants are isolated from each other: the setting in `workflow.row_security`, which the policies ask.

use crate::ffi::trigger::{AFTER_DELETE, AFTER_INSERT, AFTER_TRUNCATE, AFTER_UPDATE, Trigger, Use};
use crate::ffi::{flags, member};
use crate::rights::{self, export_trigger};
use crate::settings::{self, Notification};
use pgrx::pg_sys::Datum;

export_trigger!(
    replan_wrapper,
    pg_finfo_replan_wrapper,
    replan,
    [
        Use::new(AFTER_INSERT, "row_security").each_row(),
        Use::new(AFTER_UPDATE, "row_security").each_row(),
        Use::new(AFTER_DELETE, "row_security").each_row(),
        Use::new(AFTER_TRUNCATE, "row_security"),
    ]
);

/// Whether row security shows all rows to every role. If the setting is missing, it
/// does not.
#[pgrx::pg_extern(sql = false)]
pub fn shows_all_tenants() -> bool {
    member::relation(c"row_security").is_some_and(|(table, _)| {
        let isolates = flags::read(table);
        !isolates.is_empty() && !isolates.contains(&true)
    })
}

/// Returns the content of notifications. Any role can LISTEN, so isolated tenants learn only that there are events.
pub fn notification() -> Notification {
    match settings::notification() {
        Notification::Events if !shows_all_tenants() => Notification::Wakeup,
        content => content,
    }
}

/// AFTER changes of row_security.
fn replan(trigger: Trigger) -> Datum {
    rights::refuse_all_but_owner(trigger);
    for table in [c"dags", c"dag_runs", c"task_instances", c"task_logs", c"state_history", c"queue_settings", c"ready"]
    {
        flags::replan(table);
    }
    Datum::null()
}
