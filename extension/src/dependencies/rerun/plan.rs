//! Which tasks run again: those that are asked for, and what never ran because of them.

use crate::ffi::uuid::Uuid;
use crate::joins::Join;
use crate::memory;
use crate::ready;
use pg_workflow_state_machine::{Fate, Parents, State};
use std::collections::{BTreeSet, HashMap, HashSet};

/// A task of the run.
pub struct Task {
    pub name: String,
    pub state: State,
    pub try_number: i32,
    pub start_date: Option<i64>,
    pub join: Option<Uuid>,
}

impl Task {
    /// Whether it failed, itself or because of others.
    pub fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed | State::UpstreamFailed)
    }

    fn has_run(&self) -> bool {
        self.try_number > 0 || self.state == State::UpstreamFailed
    }
}

/// The tasks of a run and their dependencies.
pub struct Graph {
    pub tasks: HashMap<Uuid, Task>,
    /// Without that of the run itself.
    pub joins: HashMap<Uuid, Join>,
}

/// What a call puts back.
#[derive(Default)]
pub struct Rerun {
    /// The tasks that run again.
    pub tasks: BTreeSet<Uuid>,
    /// Joins to decide again: of these tasks, and of those behind them that have not begun.
    pub joins: BTreeSet<Uuid>,
}

impl Graph {
    /// Returns what runs again. `asked`: the named tasks; `None`: all that failed. `downstream`: also what never ran because
    /// of them. A task that would fail or be skipped again at once stays as it is.
    pub fn rerun(&self, asked: Option<&HashSet<Uuid>>, downstream: bool) -> Rerun {
        let is_asked = |id: &Uuid, task: &Task| match asked {
            Some(asked) => asked.contains(id),
            None => task.has_run() || self.may_run(task),
        };
        let is_first = |id: &Uuid, task: &Task| task.has_failed() && is_asked(id, task) && self.may_run(task);
        let mut open = memory::collect(self.tasks.iter().filter(|(id, task)| is_first(id, task)).map(|(id, _)| *id));
        let behind = self.behind_failed();
        let mut seen: HashSet<Uuid> = HashSet::new();
        let mut rerun = Rerun::default();
        while let Some(id) = open.pop() {
            pgrx::check_for_interrupts!();
            if !rerun.tasks.insert(id) {
                continue;
            }
            // Each join once: many tasks can share it.
            let joins = behind.get(&id).into_iter().flatten().filter(|join| seen.insert(join.id));
            for child in joins.flat_map(|join| &join.children) {
                let Some(task) = self.tasks.get(child).filter(|task| task.has_failed()) else { continue };
                if is_asked(child, task) || (downstream && !task.has_run()) {
                    memory::push(&mut open, *child);
                }
            }
        }
        rerun.joins = self.joins_of(&rerun.tasks);
        rerun
    }

    /// Returns the joins that have each failed task among their parents.
    fn behind_failed(&self) -> HashMap<Uuid, Vec<&Join>> {
        let mut behind: HashMap<Uuid, Vec<&Join>> = HashMap::new();
        for join in self.joins.values() {
            let failed = |id: &&Uuid| self.tasks.get(*id).is_some_and(Task::has_failed);
            join.parents.iter().filter(failed).for_each(|id| memory::push(behind.entry(*id).or_default(), join));
        }
        behind
    }

    fn joins_of(&self, again: &BTreeSet<Uuid>) -> BTreeSet<Uuid> {
        let again: HashSet<Uuid> = again.iter().copied().collect();
        let has_not_begun =
            |id: &Uuid| self.tasks.get(id).is_some_and(|task| ready::is_before_attempt(task.state, task.start_date));
        let is_meant = |join: &&Join| {
            join.children.iter().any(|child| again.contains(child))
                || (join.parents.iter().any(|parent| again.contains(parent)) && join.children.iter().any(has_not_begun))
        };
        self.joins.values().filter(is_meant).map(|join| join.id).collect()
    }

    /// Whether the parents of a task, as they are, let it run or wait.
    pub fn may_run(&self, task: &Task) -> bool {
        matches!(self.fate(task, &BTreeSet::new()), Fate::Run | Fate::Undecided)
    }

    /// Returns the fate of a task while these tasks run again.
    pub fn fate(&self, task: &Task, again: &BTreeSet<Uuid>) -> Fate {
        let Some(join) = task.join.and_then(|join| self.joins.get(&join)) else { return Fate::Run };
        let mut counts = Parents::default();
        for parent in &join.parents {
            // A parent that was deleted counts no more.
            let Some(task) = self.tasks.get(parent) else { continue };
            counts.add(if again.contains(parent) { State::Queued } else { task.state });
        }
        join.rule.fate(counts)
    }

    /// Returns the names of the parents of a task that have failed or were skipped.
    pub fn unsuccessful_parents(&self, task: &Task) -> Vec<&str> {
        let join = task.join.and_then(|join| self.joins.get(&join));
        let parents = join.into_iter().flat_map(|join| &join.parents).filter_map(|id| self.tasks.get(id));
        let is_meant = |task: &&Task| task.has_failed() || task.state == State::Skipped;
        parents.filter(is_meant).map(|task| task.name.as_str()).collect()
    }
}
