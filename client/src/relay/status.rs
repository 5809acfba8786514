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
    /// Sizes of the batches published since the start.
    pub batch_sizes: BatchSizes,
    /// Current error of the destination.
    pub publisher_error: Option<String>,
    /// Current error of PostgreSQL.
    pub postgres_error: Option<String>,
}

/// How many batches had which number of events.
#[derive(Clone, Debug, Default)]
pub struct BatchSizes {
    counts: [u64; BATCH_SIZES.len()],
}

/// Upper limits of the sizes that are counted together. A relay reads at most 2,000 events at once.
const BATCH_SIZES: [u64; 8] = [1, 5, 20, 100, 250, 500, 1_000, 2_000];

impl BatchSizes {
    fn add(&mut self, events: u64) {
        let index = BATCH_SIZES.iter().position(|limit| events <= *limit).unwrap_or(BATCH_SIZES.len() - 1);
        self.counts[index] += 1;
    }

    /// Returns upper limits of sizes, each with the number of batches above the limit before.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        BATCH_SIZES.into_iter().zip(self.counts)
    }
}

impl State {
    pub(super) fn count_batch(&mut self, events: usize) {
        self.published += events as u64;
        self.batch_sizes.add(events as u64);
        self.last_publish = Some(Utc::now());
    }
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
