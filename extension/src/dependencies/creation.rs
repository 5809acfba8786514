//! Creating dependencies together with the tasks that depend.

use super::graph::Graph;
use super::late;
use crate::errors;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{text_array, text_datum};
use crate::joins::waits::{Wait, Waits};
use crate::joins::{self, Join, Joins};
use crate::{endings, memory, settings};
use pg_workflow_state_machine::TriggerRule;
use pgrx::pg_sys::{self, Datum};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// The dependencies of tasks to create.
pub struct Edges {
    graph: Graph,
}

/// The joins of the new tasks.
pub struct Joined {
    joins: Vec<Join>,
    waits: Vec<Wait>,
    /// Those that watch no task yet.
    unwatched: Vec<Uuid>,
    /// The join of each new task.
    pub of_tasks: Vec<Option<Uuid>>,
}

impl Edges {
    /// Reads the arguments of create_task_instances(); `None` if there are none.
    pub fn read(names: &[String], depends_on: Option<Jsonb>, trigger_rules: Option<Jsonb>) -> Option<Edges> {
        (depends_on.is_some() || trigger_rules.is_some())
            .then(|| Edges { graph: Graph::read(names, depends_on, trigger_rules) })
    }

    /// Writes the joins of the new tasks of a run, which is locked, and returns them. The role must be the owner.
    pub fn write(&self, run: Uuid, new: &[Uuid]) -> Vec<Option<Uuid>> {
        refuse_too_many(run, new.len());
        let ids = self.ids(run, new);
        let Joined { joins, mut waits, unwatched, of_tasks } = self.join(run, &ids);
        let table = Joins::open();
        table.insert(&joins);
        table.close();
        if let Some(wait) = self.join_run(run, &ids) {
            memory::push(&mut waits, wait);
        }
        let table = Waits::open();
        table.insert(&waits);
        table.close();
        unwatched.into_iter().for_each(endings::note_join);
        of_tasks
    }

    /// Returns the IDs of all tasks of the graph.
    fn ids(&self, run: Uuid, new: &[Uuid]) -> Vec<Uuid> {
        let mut ids = memory::collect(new.iter().copied());
        let others = self.graph.others();
        if !others.is_empty() {
            let known = tasks_of(run, others);
            for name in others {
                memory::push(&mut ids, known.get(name).copied().unwrap_or_else(|| refuse_parent(name)));
            }
        }
        ids
    }

    /// Groups tasks with the same rule and the same parents.
    fn join(&self, run: Uuid, ids: &[Uuid]) -> Joined {
        let Graph { new, lists, list_of, rules, .. } = &self.graph;
        let mut numbers: HashMap<(TriggerRule, u32), usize> = HashMap::new();
        let mut joins: Vec<Join> = Vec::new();
        let mut waits = Vec::new();
        let mut unwatched = Vec::new();
        let mut of_tasks = Vec::new();
        for child in 0..*new {
            let (rule, list) = (rules[child], &lists[list_of[child] as usize]);
            if list.is_empty() {
                memory::push(&mut of_tasks, None);
                continue;
            }
            numbers.try_reserve(1).unwrap_or_else(|_| errors::out_of_memory());
            let number = *numbers.entry((rule, list_of[child])).or_insert_with(|| {
                let mut parents = memory::collect(list.iter().map(|parent| ids[*parent as usize]));
                parents.sort_unstable();
                memory::push(&mut joins, Join { id: Uuid::new(), run, rule, parents, children: Vec::new() });
                // No other transaction can end the new ones before this transaction commits.
                let watched =
                    list.iter().filter(|parent| (**parent as usize) < *new).map(|parent| ids[*parent as usize]);
                let has_others = list.last().is_some_and(|parent| *parent as usize >= *new);
                note_watches(&joins[joins.len() - 1], watched, has_others, &mut waits, &mut unwatched);
                joins.len() - 1
            });
            memory::push(&mut joins[number].children, ids[child]);
            memory::push(&mut of_tasks, Some(joins[number].id));
        }
        Joined { joins, waits, unwatched, of_tasks }
    }

    /// Lets the run wait for the new tasks on which no other one depends. Returns the row to add, if it is the first.
    fn join_run(&self, run: Uuid, ids: &[Uuid]) -> Option<Wait> {
        let Graph { new, rules, .. } = &self.graph;
        let mut is_inner = memory::collect(ids.iter().map(|_| false));
        // A task with an early rule can end before its parents.
        for parent in (0..*new).filter(|child| !rules[*child].is_early()).flat_map(|child| self.graph.parents(child)) {
            is_inner[*parent as usize] = true;
        }
        let leaves = memory::collect((0..*new).filter(|n| !is_inner[*n]).map(|n| ids[n]));
        let last = *leaves.last()?;
        if late::admit(run, last) {
            return None;
        }
        let inner: HashSet<Uuid> = (*new..ids.len()).filter(|n| is_inner[*n]).map(|n| ids[n]).collect();
        let mut parents = open_tasks(run);
        parents.retain(|id| !inner.contains(id));
        leaves.iter().for_each(|leaf| memory::push(&mut parents, *leaf));
        let join = Join { id: run, run, rule: TriggerRule::AllDone, parents, children: Vec::new() };
        if joins::insert_new(&join) {
            late::refuse_ended(run);
            return Some(Wait { watched: last, join: run, bound: join.last_place() });
        }
        // Another transaction has just created it.
        late::admit(run, last);
        None
    }
}

/// Notes which parents a new join watches.
fn note_watches(
    join: &Join,
    new_parents: impl Iterator<Item = Uuid>,
    has_others: bool,
    waits: &mut Vec<Wait>,
    unwatched: &mut Vec<Uuid>,
) {
    let wait = |watched| Wait { watched, join: join.id, bound: join.last_place() };
    if join.rule.is_early() {
        new_parents.for_each(|parent| memory::push(waits, wait(parent)));
        if has_others {
            memory::push(waits, Wait::again(join.id, join.last_place()));
            memory::push(unwatched, join.id);
        }
    } else if let Some(parent) = new_parents.last() {
        memory::push(waits, wait(parent));
    } else {
        memory::push(waits, Wait::again(join.id, join.last_place()));
        memory::push(unwatched, join.id);
    }
}

/// Returns the tasks of a run with these names.
pub fn tasks_of(run: Uuid, names: &[String]) -> HashMap<String, Uuid> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT t.task_id, t.id FROM workflow.task_instances AS t \
             WHERE t.dag_run_id OPERATOR(pg_catalog.=) $1 AND t.task_id OPERATOR(pg_catalog.=) ANY ($2)"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::TEXTARRAYOID],
        );
    }
    let names = text_array(memory::collect(names.iter().map(|name| text_datum(name))));
    let read = |rows: Rows| {
        let pair = |row| Some((memory::copy(rows.text(row, 1)?), rows.uuid(row, 2)?));
        (0..rows.len()).filter_map(pair).collect()
    };
    LOOK_UP.with(|plan| plan.run(&[Some(run.as_datum()), Some(names)], read))
}

/// Returns the tasks of a run that have not ended.
pub fn open_tasks(run: Uuid) -> Vec<Uuid> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT t.id FROM workflow.task_instances AS t \
             WHERE t.dag_run_id OPERATOR(pg_catalog.=) $1 AND NOT workflow.is_finished(t.state)"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let ids = |rows: Rows| memory::collect((0..rows.len()).filter_map(|row| rows.uuid(row, 1)));
    LOOK_UP.with(|plan| plan.run(&[Some(run.as_datum())], ids))
}

fn refuse_too_many(run: Uuid, new: usize) {
    thread_local! {
        static COUNT: Plan = Plan::new(
            "SELECT pg_catalog.count(*) FROM ( \
                 SELECT FROM workflow.task_instances AS t WHERE t.dag_run_id OPERATOR(pg_catalog.=) $1 LIMIT $2) AS t"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::INT8OID],
        );
    }
    let most = settings::max_tasks_per_run();
    let values = [Some(run.as_datum()), Some(Datum::from(most as i64))];
    let count = COUNT.with(|plan| plan.run(&values, |rows| rows.i64(0, 1)));
    if count as usize + new > most {
        errors::too_many_tasks(run, count as usize + new, most);
    }
}

fn refuse_parent(name: &str) -> ! {
    let name = errors::cut(name);
    errors::invalid(
        &format!("depends_on has task \"{name}\", which neither the call creates nor the run has"),
        &json!({ "argument": "depends_on", "task_id": name }),
        "Check the name. Create the task first, or in the same call.",
    )
}
