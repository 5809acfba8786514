//! The states of tasks, as a look needs them.

use crate::columns::Columns;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::heap::{Attempted, Heap, Lock, Strength};
use crate::ffi::member;
use crate::ffi::uuid::Uuid;
use crate::memory;
use crate::ready::Ready;
use pg_workflow_state_machine::State;

/// The table task_instances, open until the transaction ends.
pub struct Tasks {
    heap: Heap,
    columns: Columns,
}

impl Tasks {
    pub fn open() -> Tasks {
        let kind = EntityType::TaskInstance;
        let table = member::relation(kind.relation()).and_then(|(table, _)| Heap::open(table, Lock::Rows));
        let heap = table.unwrap_or_else(|| errors::not_a_member("table workflow.task_instances"));
        let columns = Columns::of_table(kind, heap.relation().rd_id, |name| heap.find_column(name));
        let columns = columns.unwrap_or_else(|| errors::not_a_member("table workflow.task_instances"));
        Tasks { heap, columns }
    }

    pub fn close(self) {
        self.heap.close();
    }

    /// Returns the state of a task; `None` if it does not exist.
    pub fn state(&self, task: Uuid) -> Option<State> {
        let found = self.heap.find(self.columns.id, task)?;
        let state = found.row().text(self.columns.state).and_then(|state| state.parse().ok());
        found.release();
        state
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
        let found = self.heap.find(self.columns.id, task)?;
        let name = self.columns.task.and_then(|task| found.row().text(task.task_id).map(memory::copy));
        found.release();
        name
    }

    /// Returns the row that says from when on a task can be claimed, if it is queued and has a queue.
    pub fn ready(&self, task: Uuid) -> Option<Ready> {
        let found = self.heap.find(self.columns.id, task)?;
        let ready = Ready::of_queued(&found.row(), &self.columns);
        found.release();
        ready
    }
}
