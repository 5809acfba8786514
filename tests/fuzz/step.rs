//! A step: one thing that one session does.

use super::changes::CHANGES;
use std::fmt;

/// The session of changes to definitions. It has no transaction of its own.
pub const OWNER: usize = 3;
/// The number of sessions, the owner's included.
pub const SESSIONS: usize = 4;

#[derive(Debug, Clone)]
pub struct Step {
    pub session: usize,
    pub action: Action,
}

#[derive(Debug, Clone)]
pub enum Action {
    /// A statement with names of entities, as `{t3}`. Column 1 of its rows has the IDs of these names.
    Run { sql: String, names: Vec<String> },
    /// A statement that ends by itself, even if another session blocks it.
    Await(String),
    /// Cancels the statement that the session waits for.
    Cancel,
    /// Stores how many triggers have been called so far.
    Measure,
    /// Applies a change of [`CHANGES`], or undoes it if it is applied.
    Toggle(usize),
}

impl Step {
    pub fn run(session: usize, sql: impl Into<String>) -> Step {
        Step { session, action: Action::Run { sql: sql.into(), names: Vec::new() } }
    }

    /// A statement that creates entities of these names.
    pub fn create(session: usize, sql: impl Into<String>, names: Vec<String>) -> Step {
        Step { session, action: Action::Run { sql: sql.into(), names } }
    }

    pub fn until_it_ends(session: usize, sql: impl Into<String>) -> Step {
        Step { session, action: Action::Await(sql.into()) }
    }

    pub fn cancel(session: usize) -> Step {
        Step { session, action: Action::Cancel }
    }

    pub fn measure() -> Step {
        Step { session: OWNER, action: Action::Measure }
    }

    pub fn toggle(change: usize) -> Step {
        Step { session: OWNER, action: Action::Toggle(change) }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step { session, action } = self;
        match action {
            Action::Run { sql, names } if names.is_empty() => write!(f, "{session}: {sql}"),
            Action::Run { sql, names } => write!(f, "{session}: {sql}  -- {}", names.join(", ")),
            Action::Await(sql) => write!(f, "{session}: {sql}  -- until it ends"),
            Action::Cancel => write!(f, "{session}: (cancel)"),
            Action::Measure => write!(f, "{session}: (measure)"),
            Action::Toggle(change) => write!(f, "{session}: {}  -- or undo it", CHANGES[*change].apply),
        }
    }
}
