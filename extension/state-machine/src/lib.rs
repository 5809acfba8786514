//! The states of a workflow entity and the moves between them.
//!
//! This is the one definition of the state machine: the PostgreSQL extension enforces it and the client answers
//! from it offline. It serves `dag_runs` and `task_instances` alike.
//!
//! ```
//! use pg_workflow_state_machine::State;
//!
//! let state: State = "running".parse()?;
//! assert!(state.can_transition(State::Success));
//! assert!(!State::Success.can_transition(state));
//! assert!(State::Success.is_terminal());
//! # Ok::<(), pg_workflow_state_machine::UnknownState>(())
//! ```

use std::fmt;
use std::str::FromStr;

/// What a run or a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Waiting to run; every entity begins here.
    Queued,
    /// Running now.
    Running,
    /// Ended well; terminal.
    Success,
    /// Ended badly; may be tried again.
    Failed,
    /// Between two tries.
    Retrying,
    /// Will not run because something before it failed; may be queued again.
    UpstreamFailed,
    /// Left out on purpose; terminal.
    Skipped,
}

use State::{Failed, Queued, Retrying, Running, Skipped, Success, UpstreamFailed};

impl State {
    /// Every state, in the order in which people list them.
    pub const ALL: [State; 7] = [Queued, Running, Success, Failed, Retrying, UpstreamFailed, Skipped];

    /// The name used in SQL, JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Queued => "queued",
            Running => "running",
            Success => "success",
            Failed => "failed",
            Retrying => "retrying",
            UpstreamFailed => "upstream_failed",
            Skipped => "skipped",
        }
    }

    /// The states that can follow this one.
    pub const fn next_states(self) -> &'static [State] {
        match self {
            Queued => &[Running, Skipped, Failed],
            Running => &[Success, Failed, Retrying, UpstreamFailed],
            Retrying => &[Running, Failed, Success],
            Failed => &[Retrying, Running],
            UpstreamFailed => &[Queued],
            Success | Skipped => &[],
        }
    }

    /// Whether the machine has the move from this state to `to`.
    pub fn can_transition(self, to: State) -> bool {
        self.next_states().contains(&to)
    }

    /// Whether no move leaves this state.
    pub const fn is_terminal(self) -> bool {
        self.next_states().is_empty()
    }

    /// Whether an entity that enters this state has come to an end, for good or until it is tried again: its
    /// `end_date` is set then.
    pub const fn ends_a_try(self) -> bool {
        matches!(self, Success | Failed | Skipped | UpstreamFailed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownState(pub String);

impl fmt::Display for UnknownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown state \"{}\"", self.0)
    }
}

impl std::error::Error for UnknownState {}

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(name: &str) -> Result<State, UnknownState> {
        let state = State::ALL.into_iter().find(|state| state.as_str() == name);
        state.ok_or_else(|| UnknownState(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_thirteen_moves() {
        let moves: usize = State::ALL.iter().map(|s| s.next_states().len()).sum();
        assert_eq!(moves, 13);
    }

    #[test]
    fn only_success_and_skipped_are_terminal() {
        let terminal: Vec<State> = State::ALL.into_iter().filter(|s| s.is_terminal()).collect();
        assert_eq!(terminal, [Success, Skipped]);
    }

    #[test]
    fn no_state_follows_itself() {
        assert!(State::ALL.into_iter().all(|s| !s.can_transition(s)));
    }

    #[test]
    fn names_parse_back() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("Running".parse::<State>(), Err(UnknownState("Running".into())));
    }
}
