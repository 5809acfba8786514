//! The procedures that wait: they commit first, and hold no snapshot and no lock while they wait.

use crate::ffi::export::export_function;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::procedure::Call;
use crate::ffi::values::text_datum;
use crate::{errors, memory, signals};
use pgrx::pg_sys::{self, Datum, FunctionCallInfo};
use serde_json::Value;
use std::thread::LocalKey;
use std::time::Duration;

export_function!(wait_for_events_of_consumer, pg_finfo_wait_for_events_of_consumer, |call| {
    wait_for_events(call, &CONSUMER_HAS_EVENTS)
});
export_function!(wait_for_events_of_position, pg_finfo_wait_for_events_of_position, |call| {
    wait_for_events(call, &POSITION_HAS_EVENTS)
});

thread_local! {
    static CONSUMER_HAS_EVENTS: Plan = question("workflow.consumer_has_events");
    static POSITION_HAS_EVENTS: Plan = question("workflow.position_has_events");
}

fn question(function: &str) -> Plan {
    Plan::new(format!("SELECT {function}($1)"), &[pg_sys::TEXTOID])
}

/// The argument with the longest time.
pub fn timeout(call: &Call) -> Duration {
    // SAFETY: each procedure here has an interval as its second argument.
    let timeout = unsafe { call.duration(1) };
    timeout.unwrap_or_else(|| {
        errors::invalid_argument("timeout", &Value::Null, "must be 0 or more", "Set timeout to how long to wait.")
    })
}

/// Waits until the reader has events, or the time has passed; returns whether it has any. The arguments are the reader,
/// and how long to wait.
fn wait_for_events(call: FunctionCallInfo, question: &'static LocalKey<Plan>) -> Datum {
    // SAFETY: PostgreSQL calls one of the two procedures above, with a text and an interval.
    let Some(call) = (unsafe { Call::begin(call) }) else { errors::in_transaction_block("wait for events") };
    // SAFETY: as above.
    let reader = unsafe { call.text(0) }.map(memory::copy);
    let mut left = timeout(&call);
    call.commit();
    loop {
        // Before the snapshot of the question, so that no commit is missed between the two.
        let signals = signals::own();
        let seen = super::counted(signals);
        let reader = reader.as_deref().map(text_datum);
        let is_true = |rows: Rows| rows.get(0, 1).is_some_and(|value| value.value() != 0);
        let has_events = call.in_snapshot(|| question.with(|plan| plan.run(&[reader], is_true)));
        call.commit();
        if has_events || left.is_zero() {
            return call.finish(has_events);
        }
        left = super::wait(signals, seen, left);
    }
}
