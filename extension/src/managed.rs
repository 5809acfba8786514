//! The managed columns of a run or a task: the values that a transition gives them.

use crate::call;
use crate::columns::{Columns, parent_name};
use crate::entity::EntityType;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::clock;
use crate::hold::{Given, Hold};
use pg_workflow_state_machine::State;
use pgrx::pg_sys::Datum;

/// The columns that only a transition changes.
#[derive(Clone, Copy, PartialEq)]
pub struct Managed<'a> {
    pub version: i64,
    pub start_date: Option<i64>,
    end_date: Option<i64>,
    /// Null for a run.
    pub try_number: Option<i32>,
    /// Null for a run. The bits of a double precision.
    duration: Option<i64>,
    /// All null for a run.
    pub hold: Hold<'a>,
}

impl<'a> Managed<'a> {
    pub fn of(row: &'a Row, columns: &Columns) -> Managed<'a> {
        let claim = columns.task.and_then(|task| task.claim);
        Managed {
            version: row.i64(columns.version).unwrap_or(0),
            start_date: row.i64(columns.start_date),
            end_date: row.i64(columns.end_date),
            try_number: columns.task.and_then(|task| row.i32(task.try_number)),
            duration: columns.task.and_then(|task| row.i64(task.duration)),
            hold: claim.map_or_else(Hold::default, |claim| Hold::of(row, &claim)),
        }
    }

    /// Returns the values after a transition.
    pub fn after(self, [from, to]: [State; 2], now: i64, given: Given<'a>) -> Managed<'a> {
        // A queued task has no attempt. In 0.2.0 it kept the dates of an earlier one.
        let before = if from == State::Queued && !self.is_run() { self.without_attempt() } else { self };
        let mut after = Managed { version: self.version + 1, hold: self.hold.after(to, given), ..before };
        match to {
            State::Running => {
                (after.start_date, after.end_date, after.duration) = (Some(now), None, None);
                after.try_number = self.try_number.map(|tries| tries + 1);
            }
            State::Queued => after = after.without_attempt(),
            State::Retrying if given.is_put_back => after = after.without_attempt(),
            _ if before.ends(from, to) => {
                // The clock may have been set back since the start.
                let end = before.start_date.map_or(now, |start| start.max(now));
                after.end_date = Some(end);
                let seconds = before.start_date.map(|start| (end - start) as f64 / 1e6);
                after.duration = self.try_number.and(seconds).map(|seconds| seconds.to_bits() as i64);
            }
            _ if self.is_run() => after.end_date = None,
            _ => {}
        }
        after
    }

    fn without_attempt(self) -> Managed<'a> {
        Managed { start_date: None, end_date: None, duration: None, ..self }
    }

    /// Returns whether a transition ends a run, or a task's attempt. The time in `retrying` is no part of an attempt.
    fn ends(self, from: State, to: State) -> bool {
        let is_over = self.start_date.is_some() && self.end_date.is_some();
        if self.is_run() { to.is_finished() } else { from == State::Running || (to.is_finished() && !is_over) }
    }

    fn is_run(self) -> bool {
        self.try_number.is_none()
    }

    /// Returns all that a transition at a time writes beside the state, in a row that has `written`.
    pub fn changes(
        self,
        states: [State; 2],
        now: i64,
        given: Given<'a>,
        written: Hold,
        columns: &Columns,
        error: impl FnOnce() -> Option<Datum>,
    ) -> Vec<(usize, Option<Datum>)> {
        let after = self.after(states, now, given);
        let mut changes = after.as_changes(columns);
        if let Some(claim) = columns.task.and_then(|task| task.claim) {
            changes.extend(after.hold.changes(written, &claim));
        }
        changes.push((columns.updated_at, Some(Datum::from(now))));
        changes.extend(columns.task.and_then(|task| Some((task.error, error_after(states[1], error)?))));
        changes
    }

    /// Returns the values as changes of a row.
    fn as_changes(self, columns: &Columns) -> Vec<(usize, Option<Datum>)> {
        let datum = |value: Option<i64>| value.map(Datum::from);
        let mut changes = vec![
            (columns.version, Some(Datum::from(self.version))),
            (columns.start_date, datum(self.start_date)),
            (columns.end_date, datum(self.end_date)),
        ];
        if let Some(task) = columns.task {
            changes.push((task.try_number, self.try_number.map(Datum::from)));
            changes.push((task.duration, datum(self.duration)));
        }
        changes
    }

    /// Returns the name of a column in which the two differ, and that the current statement may not set.
    pub fn difference(self, other: Managed) -> Option<&'static str> {
        let of_hold = || if call::sets_holds() { None } else { self.hold.difference(other.hold) };
        self.difference_of_move(other).or_else(of_hold)
    }

    fn difference_of_move(self, other: Managed) -> Option<&'static str> {
        let differ = [
            ("version", self.version != other.version),
            ("start_date", self.start_date != other.start_date),
            ("end_date", self.end_date != other.end_date),
            ("try_number", self.try_number != other.try_number),
            ("duration", self.duration != other.duration),
        ];
        differ.iter().find(|(_, differs)| *differs).map(|(name, _)| *name)
    }
}

/// Returns what a transition sets as the task's error; `None` if it leaves the error. `error` is that of its metadata.
fn error_after(to: State, error: impl FnOnce() -> Option<Datum>) -> Option<Option<Datum>> {
    match to {
        State::Running => Some(None),
        State::Queued => Some(error()),
        _ => error().map(Some),
    }
}

/// Returns the error of a transition's metadata; `None` if the transition has none, or clears the error.
pub fn error_of(to: State, metadata: Jsonb) -> Option<Datum> {
    if to == State::Running { None } else { metadata.get_text("error") }
}

/// Returns the current time, but never one before the row's last change: time increases with the version. If the clock was
/// set back, up to a second after that change, by chance: two claims of a task, the first of which a crash has undone, do not
/// begin at the same time.
pub fn now_after(row: &Row, updated_at: usize) -> i64 {
    let (now, last) = (clock(), row.i64(updated_at).unwrap_or(i64::MIN));
    if now >= last { now } else { last.saturating_add(Uuid::random_bits(20)) }
}

/// The columns that never change, but for a task's join_id by add_dependencies().
pub struct Fixed<'a> {
    pub id: Uuid,
    /// The DAG of a run, the run of a task.
    pub parent: Uuid,
    pub task_id: Option<&'a str>,
    join_id: Option<Uuid>,
    created_at: Option<i64>,
}

impl<'a> Fixed<'a> {
    pub fn of(row: &'a Row, columns: &Columns) -> Fixed<'a> {
        // These columns are NOT NULL; a null differs from any value.
        let uuid = |column| row.uuid(column).unwrap_or(Uuid([0; 16]));
        Fixed {
            id: uuid(columns.id),
            parent: uuid(columns.parent),
            task_id: columns.task.and_then(|task| row.text(task.task_id)),
            join_id: columns.task.and_then(|task| row.uuid(task.join_id?)),
            created_at: row.i64(columns.created_at),
        }
    }

    /// Returns the name of a column in which the two differ.
    pub fn difference(&self, other: &Fixed, kind: EntityType) -> Option<&'static str> {
        let differ = [
            ("id", self.id != other.id),
            (parent_name(kind), self.parent != other.parent),
            ("task_id", self.task_id != other.task_id),
            ("join_id", self.join_id != other.join_id && !call::sets_joins()),
            ("created_at", self.created_at != other.created_at),
        ];
        differ.iter().find(|(_, differs)| *differs).map(|(name, _)| *name)
    }
}
