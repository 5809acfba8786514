//! DROP EXTENSION without CASCADE is refused while there is data: PostgreSQL itself counts the tables as part of the
//! extension, and would drop them without a word.

use crate::errors;
use crate::ffi::drop;
use crate::ffi::plan::Plan;
use pgrx::pg_sys::{self, Datum};
use serde_json::{Map, Value};

#[doc(hidden)]
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_refuse_drop_wrapper() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// ON ddl_command_start of DROP EXTENSION.
#[doc(hidden)]
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn refuse_drop_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: PostgreSQL passed it.
    let dropped = unsafe { drop::extensions(fcinfo) };
    if dropped.iter().any(|extension| extension == "pg_workflow") {
        refuse_where_there_is_data();
    }
    Datum::null()
}

fn refuse_where_there_is_data() {
    thread_local! {
        static LOOK: Plan = Plan::new(
            "SELECT EXISTS (SELECT FROM workflow.dags), EXISTS (SELECT FROM workflow.state_history), \
                EXISTS (SELECT FROM workflow.consumers)"
                .to_owned(),
            &[],
        );
    }
    let holds: Map<String, Value> = LOOK.with(|plan| {
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
