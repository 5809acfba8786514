//! The claims that a worker holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cancellation::{CancelReason, Cancellation};
use crate::model::ClaimedTask;

/// The claims from their start until the database has acknowledged their ends.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<HashMap<String, Entry>>>);

struct Entry {
    cancellation: Cancellation,
    is_running: bool,
}

/// Marks the end of a handler, also if it panics or is dropped.
pub struct Running {
    held: Held,
    claim: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(entry) = self.held.lock().get_mut(&self.claim) {
            entry.is_running = false;
        }
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a claim whose handler does not run.
    pub fn add(&self, task: &ClaimedTask) -> Cancellation {
        let cancellation = Cancellation::default();
        let entry = Entry { cancellation: cancellation.clone(), is_running: false };
        self.lock().insert(task.claim.clone(), entry);
        cancellation
    }

    /// Notes that the handler of a claim runs, until the result is dropped.
    pub fn run(&self, claim: &str) -> Running {
        if let Some(entry) = self.lock().get_mut(claim) {
            entry.is_running = true;
        }
        Running { held: self.clone(), claim: claim.to_owned() }
    }

    pub fn remove(&self, claim: &str) {
        self.lock().remove(claim);
    }

    /// Returns all claims.
    pub fn claims(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Returns the claims whose handlers do not run, and the number of the others.
    pub fn idle(&self) -> (Vec<String>, usize) {
        let held = self.lock();
        let idle: Vec<String> =
            held.iter().filter(|(_, entry)| !entry.is_running).map(|(claim, _)| claim.clone()).collect();
        let running = held.len() - idle.len();
        (idle, running)
    }

    /// Tells the handler of a claim to stop; returns true if it runs, and was not told before.
    pub fn cancel(&self, claim: &str, reason: CancelReason) -> bool {
        self.lock().get(claim).is_some_and(|entry| entry.is_running && entry.cancellation.cancel(reason))
    }

    /// Tells all handlers to stop.
    pub fn cancel_all(&self, reason: CancelReason) {
        for entry in self.lock().values() {
            entry.cancellation.cancel(reason);
        }
    }
}
