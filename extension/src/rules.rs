//! The state machine as SQL functions.

use crate::args;
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
fn is_finished(state: &str) -> bool {
    args::state("state", Some(state)).is_finished()
}

#[pg_extern(sql = false)]
fn check_entity_type(entity_type: Option<&str>) -> &'static str {
    args::entity_type(entity_type).as_str()
}
