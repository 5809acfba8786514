//! The status of a relay, for `/health` and `/metrics`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;

/// The role of a relay among those of the same consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// It connects, or waits for an unavailable server.
    #[default]
    Starting,
    /// It takes over if the leader stops.
    Standby,
    /// It relays events.
    Leader,
}

/// The state of a relay, shared with HTTP handlers.
#[derive(Debug, Default)]
pub struct Status(Mutex<State>);

/// The state of a relay at a point in time.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct State {
    /// The role of the relay.
    pub role: Role,
    /// Number of events published since the start.
    pub published: u64,
    /// Time of the last publication; `None` if there was none.
    pub last_publish: Option<DateTime<Utc>>,
    /// Number of comparisons of the destination with the database: at the start, and each time the destination ended
    /// elsewhere than expected.
    pub comparisons: u64,
    /// Current error of the destination.
    pub publisher_error: Option<String>,
    /// Current error of PostgreSQL.
    pub postgres_error: Option<String>,
}

impl Status {
    /// Returns the current state.
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
