//! What a relay is doing, for `/health` and `/metrics`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;

/// What a relay is among those of the same consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// It connects, or waits for a server that is away.
    #[default]
    Starting,
    /// It would take over if the one that works stopped.
    Standby,
    /// It is the one that works.
    Leader,
}

/// A relay's state, shared between it and those who ask.
#[derive(Debug, Default)]
pub struct Status(Mutex<State>);

/// What [`Status`] holds at a moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct State {
    /// What the relay is among others.
    pub role: Role,
    /// Events that it has published since it started.
    pub published: u64,
    /// When it last published any.
    pub last_publish: Option<DateTime<Utc>>,
    /// How often it compared the store with the database: when it began, and when the store ended elsewhere than
    /// expected.
    pub comparisons: u64,
    /// Why the destination takes nothing at the moment.
    pub publisher_error: Option<String>,
    /// Why PostgreSQL gives nothing at the moment.
    pub postgres_error: Option<String>,
}

impl Status {
    /// The state now.
    pub fn get(&self) -> State {
        self.lock().clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
