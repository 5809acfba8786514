//! The part of a task that its claim and its queue set.

use crate::columns::ClaimColumns;
use crate::ffi::trigger::Row;
use crate::ffi::values::text_datum;
use crate::memory;
use pg_workflow_state_machine::State;
use pgrx::pg_sys::Datum;

/// The values that a call gives a task beside its state. A transition by hand gives none.
#[derive(Clone, Copy, Default)]
pub struct Given<'a> {
    pub worker: Option<&'a str>,
    pub lease_expires_at: Option<i64>,
    pub not_before: Option<i64>,
    /// Whether the attempt that ends does not count against max_tries.
    pub is_uncounted: bool,
    /// Whether rerun_tasks() puts the task back: it has had no attempt since.
    pub is_put_back: bool,
}

/// The same, for as long as a call lasts.
#[derive(Default)]
pub struct Kept {
    worker: Option<String>,
    lease_expires_at: Option<i64>,
    not_before: Option<i64>,
    is_uncounted: bool,
    is_put_back: bool,
}

impl Given<'_> {
    pub fn keep(self) -> Kept {
        let Given { worker, lease_expires_at, not_before, is_uncounted, is_put_back } = self;
        Kept { worker: worker.map(memory::copy), lease_expires_at, not_before, is_uncounted, is_put_back }
    }
}

impl Kept {
    pub fn given(&self) -> Given<'_> {
        let Kept { ref worker, lease_expires_at, not_before, is_uncounted, is_put_back } = *self;
        Given { worker: worker.as_deref(), lease_expires_at, not_before, is_uncounted, is_put_back }
    }
}

/// The columns of a task that a transition sets for its claim.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Hold<'a> {
    worker: Option<&'a str>,
    lease_expires_at: Option<i64>,
    cancel_requested_at: Option<i64>,
    uncounted_tries: Option<i32>,
    not_before: Option<i64>,
}

impl<'a> Hold<'a> {
    pub fn of(row: &'a Row, columns: &ClaimColumns) -> Hold<'a> {
        Hold {
            worker: row.text(columns.worker),
            lease_expires_at: row.i64(columns.lease_expires_at),
            cancel_requested_at: row.i64(columns.cancel_requested_at),
            uncounted_tries: row.i32(columns.uncounted_tries),
            not_before: row.i64(columns.not_before),
        }
    }

    /// Returns the values after a transition to a state.
    pub fn after(self, to: State, given: Given<'a>) -> Hold<'a> {
        let left = Hold { worker: None, lease_expires_at: None, not_before: None, ..self };
        match to {
            State::Running => Hold {
                worker: given.worker,
                lease_expires_at: given.lease_expires_at,
                cancel_requested_at: None,
                ..left
            },
            State::Queued => Hold { not_before: given.not_before, ..Hold::default() },
            State::Retrying => {
                let uncounted = self.uncounted_tries.unwrap_or(0).saturating_add(1);
                let uncounted_tries = if given.is_uncounted { Some(uncounted) } else { self.uncounted_tries };
                Hold { not_before: given.not_before, uncounted_tries, ..left }
            }
            _ => left,
        }
    }

    /// Returns the values that a statement of the user's gives: it can set not_before.
    pub fn given_by_hand(self, before: Hold) -> Given<'a> {
        let not_before = self.not_before.filter(|_| self.not_before != before.not_before);
        Given { not_before, ..Given::default() }
    }

    /// Returns the values as changes of a row that has `before`.
    pub fn changes(self, before: Hold, columns: &ClaimColumns) -> Vec<(usize, Option<Datum>)> {
        let mut changes = Vec::new();
        if self == before {
            return changes;
        }
        let [worker, was] = [self, before].map(|hold| hold.worker);
        if worker != was {
            changes.push((columns.worker, worker.map(text_datum)));
        }
        let numbers = [
            (columns.lease_expires_at, self.lease_expires_at, before.lease_expires_at),
            (columns.cancel_requested_at, self.cancel_requested_at, before.cancel_requested_at),
            (columns.not_before, self.not_before, before.not_before),
        ];
        let changed = numbers.into_iter().filter(|(_, value, was)| value != was);
        changes.extend(changed.map(|(column, value, _)| (column, value.map(Datum::from))));
        if self.uncounted_tries != before.uncounted_tries {
            changes.push((columns.uncounted_tries, self.uncounted_tries.map(Datum::from)));
        }
        changes
    }

    /// Returns the name of a managed column in which the two differ. not_before is the user's.
    pub fn difference(self, other: Hold) -> Option<&'static str> {
        let differ = [
            ("worker", self.worker != other.worker),
            ("lease_expires_at", self.lease_expires_at != other.lease_expires_at),
            ("cancel_requested_at", self.cancel_requested_at != other.cancel_requested_at),
            ("uncounted_tries", self.uncounted_tries != other.uncounted_tries),
        ];
        differ.iter().find(|(_, differs)| *differs).map(|(name, _)| *name)
    }
}
