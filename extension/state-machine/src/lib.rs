#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod trigger_rule;

pub use trigger_rule::{Fate, Parents, TriggerRule, UnknownRule};

use std::fmt;
use std::str::FromStr;

/// The state of a run or a task.
///
/// A state parses from its name, with [`UnknownState`] for any other text, and displays as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum State {
    /// Waiting to run; the first state of every entity.
    Queued,
    /// Running now; `start_date` is set on entry, and `try_number` of a task increases.
    Running,
    /// Finished successfully; terminal.
    Success,
    /// Finished with an error; can run again.
    Failed,
    /// Waiting between two attempts.
    Retrying,
    /// Will not run because an upstream task failed; can be queued again.
    UpstreamFailed,
    /// Skipped on purpose; terminal.
    Skipped,
}

use State::{Failed, Queued, Retrying, Running, Skipped, Success, UpstreamFailed};

impl State {
    /// All states, in the order of the documentation.
    pub const ALL: [State; 7] = [Queued, Running, Success, Failed, Retrying, UpstreamFailed, Skipped];

    /// Returns the name used in SQL, JSON and on the command line.
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

    /// Returns the states that can follow this one; none if it is terminal.
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

    /// Returns whether the transition from this state to `to` is allowed.
    pub fn can_transition(self, to: State) -> bool {
        self.next_states().contains(&to)
    }

    /// Returns whether no transition leaves this state.
    pub const fn is_terminal(self) -> bool {
        self.next_states().is_empty()
    }

    /// Returns whether an entity in this state neither waits nor runs.
    ///
    /// The entity can run again, unless the state is terminal.
    pub const fn is_finished(self) -> bool {
        matches!(self, Success | Failed | Skipped | UpstreamFailed)
    }
}

/// The state machine as a whole.
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
    /// Returns whether the transition from one state to the other is allowed.
    pub fn can_transition(from: State, to: State) -> bool {
        from.can_transition(to)
    }

    /// Returns the states that can follow this one; none if it is terminal.
    pub const fn next_states(state: State) -> &'static [State] {
        state.next_states()
    }

    /// Returns whether no transition leaves this state.
    pub const fn is_terminal(state: State) -> bool {
        state.is_terminal()
    }

    /// Returns all transitions: the state that each leaves and the state that it enters.
    pub fn transitions() -> impl Iterator<Item = (State, State)> {
        State::ALL.into_iter().flat_map(|from| from.next_states().iter().map(move |to| (from, *to)))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of parsing a text that is not the name of a state. Names are lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownState(
    /// The text.
    pub String,
);

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
    fn machine_has_thirteen_transitions() {
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
    fn states_parse_from_their_names() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("Running".parse::<State>(), Err(UnknownState("Running".into())));
    }
}
