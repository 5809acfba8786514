//! The state machine as SQL functions, and the small ones beside it.

use crate::args;
use crate::errors;
use crate::ffi::session;
use pg_workflow_state_machine::State;
use pgrx::pg_extern;

#[pg_extern(sql = false)]
fn states() -> Vec<&'static str> {
    State::ALL.map(State::as_str).to_vec()
}

#[pg_extern(sql = false)]
fn can_transition(from: &str, to: &str) -> bool {
    args::state("from", Some(from)).can_transition(args::state("to", Some(to)))
}

#[pg_extern(sql = false)]
fn next_states(state: &str) -> Vec<&'static str> {
    args::state("state", Some(state)).next_states().iter().map(|state| state.as_str()).collect()
}

#[pg_extern(sql = false)]
fn is_terminal(state: &str) -> bool {
    args::state("state", Some(state)).is_terminal()
}

#[pg_extern(sql = false)]
fn check_entity_type(entity_type: Option<&str>) -> &'static str {
    args::entity_type(entity_type).as_str()
}

#[pg_extern(sql = false)]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[pg_extern(sql = false)]
fn uuid_v7() -> pgrx::Uuid {
    pgrx::Uuid::from_bytes(uuid::Uuid::now_v7().into_bytes())
}

#[pg_extern(sql = false)]
fn system_identifier() -> i64 {
    session::system_identifier().cast_signed()
}

#[pg_extern(sql = false)]
fn timeline() -> i64 {
    refuse_on_standby();
    session::timeline().into()
}

#[pg_extern(sql = false)]
fn next_transaction_id() -> i64 {
    refuse_on_standby();
    // xid8 is passed as a 64-bit integer is.
    session::next_transaction_id().cast_signed()
}

/// A standby's snapshots do not list the transactions under way as the primary's do.
fn refuse_on_standby() {
    if session::is_standby() {
        errors::on_standby();
    }
}

/// For the functions in SQL, so that they raise errors in the one place too.
#[pg_extern(sql = false)]
fn refuse_argument(message: Option<&str>, detail: Option<pgrx::JsonB>, hint: Option<&str>) {
    let detail = detail.map_or(serde_json::Value::Null, |detail| detail.0);
    errors::invalid(message.unwrap_or("bad argument"), &detail, hint.unwrap_or(""))
}

#[pg_extern(sql = false)]
fn refuse_missing(entity_type: Option<&str>, id: Option<&str>, tried: Option<&str>) {
    errors::missing(entity_type.unwrap_or("entity"), id.unwrap_or("null"), tried.unwrap_or("use it"))
}

#[pg_extern(sql = false)]
fn refuse_leased(consumer: Option<&str>, lease: Option<i64>, holder: Option<&str>, current_lease: Option<i64>) {
    errors::leased(consumer.unwrap_or_default(), lease, holder, current_lease)
}
