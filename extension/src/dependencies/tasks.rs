//! The states of tasks, as a look needs them.

use crate::columns::Columns;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::heap::{Attempted, Heap, Lock, Strength};
use crate::ffi::matches::Matches;
use crate::ffi::member;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::memory;
use crate::ready::{self, Ready};
use pg_workflow_state_machine::State;
use std::cell::RefCell;

/// The table task_instances, open until the transaction ends. It is read by the snapshot with which it was opened.
pub struct Tasks {
    heap: Heap,
    columns: Columns,
    /// One scan for all: a join can have thousands of parents.
    matches: RefCell<Matches>,
}

impl Tasks {
    pub fn open() -> Tasks {
        let kind = EntityType::TaskInstance;
        let table = member::relation(kind.relation()).and_then(|(table, _)| Heap::open(table, Lock::Rows));
        let heap = table.unwrap_or_else(|| errors::not_a_member("table workflow.task_instances"));
        let columns = Columns::of_table(kind, heap.relation().rd_id, |name| heap.find_column(name));
        let columns = columns.unwrap_or_else(|| errors::not_a_member("table workflow.task_instances"));
        let matches = Matches::open(&heap, columns.id).unwrap_or_else(|| errors::missing_index("task_instances_pkey"));
        Tasks { heap, columns, matches: RefCell::new(matches) }
    }

    pub fn close(self) {
        self.matches.into_inner().close();
        self.heap.close();
    }

    /// Reads a task; `None` if it does not exist, or if `read` returns none.
    fn read<R>(&self, task: Uuid, read: impl FnOnce(&Row) -> Option<R>) -> Option<R> {
        let mut matches = self.matches.borrow_mut();
        matches.find(task, task);
        matches.next().and_then(|(row, _)| read(&row))
    }

    /// Returns the state of a task; `None` if it does not exist.
    pub fn state(&self, task: Uuid) -> Option<State> {
        self.read(task, |row| row.text(self.columns.state)?.parse().ok())
    }

    /// Whether a task has ended, or does not exist.
    pub fn has_ended(&self, task: Uuid) -> bool {
        self.state(task).is_none_or(State::is_finished)
    }

    /// Locks a task, so that no other transaction ends it until this one has ended. Returns false if another one is about
    /// to change it.
    pub fn hold(&self, task: Uuid) -> bool {
        let Some(found) = self.heap.find(self.columns.id, task) else { return false };
        let is_held = self.heap.try_lock(&found, Strength::Share) == Attempted::Locked;
        found.release();
        is_held
    }

    /// Returns the name of a task.
    pub fn name(&self, task: Uuid) -> Option<String> {
        self.read(task, |row| Some(memory::copy(row.text(self.columns.task?.task_id)?)))
    }

    /// Returns the state of a task that waits for its parents, or may run; `None` if it has begun or ended.
    pub fn state_before_attempt(&self, task: Uuid) -> Option<State> {
        let is_before_attempt =
            |row: &Row, state: &State| ready::is_before_attempt(*state, row.i64(self.columns.start_date));
        self.read(task, |row| row.text(self.columns.state)?.parse().ok().filter(|state| is_before_attempt(row, state)))
    }

    /// Returns the row that says from when on a task can be claimed, if it has not begun and has a queue.
    pub fn ready(&self, task: Uuid) -> Option<Ready> {
        self.read(task, |row| Ready::of_released(row, &self.columns))
    }
}
