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
//!
//! The feature `serde` writes and reads a state as its name.

use std::fmt;
use std::str::FromStr;

/// What a run or a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
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
    pub const fn ends_attempt(self) -> bool {
        matches!(self, Success | Failed | Skipped | UpstreamFailed)
    }
}

/// The machine as a whole: which moves there are.
///
/// ```
/// use pg_workflow_state_machine::{State, StateMachine};
///
/// assert!(StateMachine::can_transition(State::Queued, State::Running));
/// assert_eq!(StateMachine::next_states(State::UpstreamFailed), [State::Queued]);
/// assert!(StateMachine::is_terminal(State::Skipped));
/// assert_eq!(StateMachine::transitions().count(), 13);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StateMachine;

impl StateMachine {
    /// Whether there is a move from one state to the other.
    pub fn can_transition(from: State, to: State) -> bool {
        from.can_transition(to)
    }

    /// The states that can follow this one; none for a terminal state.
    pub const fn next_states(state: State) -> &'static [State] {
        state.next_states()
    }

    /// Whether no move leaves this state.
    pub const fn is_terminal(state: State) -> bool {
        state.is_terminal()
    }

    /// Every move: the state it leaves and the one it enters.
    pub fn transitions() -> impl Iterator<Item = (State, State)> {
        State::ALL.into_iter().flat_map(|from| from.next_states().iter().map(move |to| (from, *to)))
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
        assert_eq!(StateMachine::transitions().count(), 13);
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
