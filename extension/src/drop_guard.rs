//! Rejecting DROP EXTENSION without CASCADE while there is data: PostgreSQL would drop the extension's tables with no
//! warning.

use crate::errors;
use crate::ffi::plan::Plan;
use crate::rights::export_drop_trigger;
use serde_json::{Map, Value};

export_drop_trigger!(refuse_drop_wrapper, pg_finfo_refuse_drop_wrapper, refuse_drop);

/// ON ddl_command_start of DROP EXTENSION.
fn refuse_drop(extensions: Vec<String>) {
    if extensions.iter().any(|extension| extension == "pg_workflow") {
        reject_with_data();
    }
}

fn reject_with_data() {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT EXISTS (SELECT FROM workflow.dags), EXISTS (SELECT FROM workflow.state_history), \
                EXISTS (SELECT FROM workflow.consumers)"
                .to_owned(),
            &[],
        );
    }
    let holds: Map<String, Value> = LOOK_UP.with(|plan| {
        plan.run(&[], |rows| {
            let tables = ["dags", "state_history", "consumers"];
            let has_rows = |column: i32| rows.get(0, column).is_some_and(|value| value.value() != 0);
            tables.iter().zip(1..).map(|(table, column)| ((*table).to_owned(), Value::from(has_rows(column)))).collect()
        })
    });
    if holds.values().any(|rows| *rows == Value::Bool(true)) {
        errors::data_at_stake(&serde_json::json!({ "extension": "pg_workflow", "has_rows": holds }));
    }
}
