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
    stage: Stage,
    /// The database has refused to renew its lease.
    is_refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No handler runs, and none has ended the task: it can be released.
    Idle,
    Running,
    /// The end is known here, and not yet in the database.
    Ended,
}

/// A handler that runs.
pub struct Running {
    held: Held,
    claim: String,
}

impl Running {
    /// Notes that the handler has ended the task, so that it is not released.
    pub fn ended(self) {
        self.held.set_stage(&self.claim, Stage::Ended);
    }
}

/// The handler has ended, or was dropped.
impl Drop for Running {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if std::thread::panicking() {
            // No end will be reported. Without renewals the lease runs out.
            held.remove(&self.claim);
        } else if let Some(entry) = held.get_mut(&self.claim).filter(|entry| entry.stage == Stage::Running) {
            entry.stage = Stage::Idle;
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
        let entry = Entry { cancellation: cancellation.clone(), stage: Stage::Idle, is_refused: false };
        self.lock().insert(task.claim.clone(), entry);
        cancellation
    }

    /// Notes that the handler of a claim runs, until the result is dropped.
    pub fn run(&self, claim: &str) -> Running {
        self.set_stage(claim, Stage::Running);
        Running { held: self.clone(), claim: claim.to_owned() }
    }

    fn set_stage(&self, claim: &str, stage: Stage) {
        if let Some(entry) = self.lock().get_mut(claim) {
            entry.stage = stage;
        }
    }

    pub fn remove(&self, claim: &str) {
        self.lock().remove(claim);
    }

    /// Returns all claims: first those whose leases the database renews.
    pub fn claims(&self) -> [Vec<String>; 2] {
        let held = self.lock();
        let of = |is_refused| held.iter().filter(move |(_, entry)| entry.is_refused == is_refused);
        [false, true].map(|is_refused| of(is_refused).map(|(claim, _)| claim.clone()).collect())
    }

    /// Notes that the database refuses to renew the lease of a claim; returns true if that is new.
    pub fn set_refused(&self, claim: &str) -> bool {
        self.lock().get_mut(claim).is_some_and(|entry| !std::mem::replace(&mut entry.is_refused, true))
    }

    /// Returns the claims that can be released, and the number of handlers that run.
    pub fn idle(&self) -> (Vec<String>, usize) {
        let held = self.lock();
        let of = |stage| held.iter().filter(move |(_, entry)| entry.stage == stage);
        (of(Stage::Idle).map(|(claim, _)| claim.clone()).collect(), of(Stage::Running).count())
    }

    /// Tells the handler of a claim to stop; returns true if it runs, and was not told before.
    pub fn cancel(&self, claim: &str, reason: CancelReason) -> bool {
        self.lock().get(claim).is_some_and(|entry| entry.stage == Stage::Running && entry.cancellation.cancel(reason))
    }

    /// Tells all handlers to stop.
    pub fn cancel_all(&self, reason: CancelReason) {
        for entry in self.lock().values() {
            entry.cancellation.cancel(reason);
        }
    }
}
