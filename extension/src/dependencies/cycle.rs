//! Cycles that dependencies between tasks of a run would make.

use crate::errors;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::snapshot;
use crate::ffi::uuid::Uuid;
use crate::joins::{Join, Joins, uuids_datum};
use crate::memory;
use pgrx::pg_sys;
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// The longest path that an error shows.
pub const MOST_NAMES: usize = 100;

/// Raises an error if a task of `parents` depends on one of `children`, perhaps by way of others. The run is locked.
pub fn refuse(run: Uuid, parents: &[Uuid], children: &[Uuid]) {
    // Tasks that a running one has just created depend on none.
    if !have_parents(parents) {
        return;
    }
    let table = Joins::open();
    let joins = snapshot::with_newest(|| table.of_run(run));
    table.close();
    let of_child: HashMap<Uuid, &Join> =
        joins.iter().flat_map(|join| join.children.iter().map(move |child| (*child, join))).collect();
    let children: HashSet<Uuid> = children.iter().copied().collect();
    // From which task the walk came to each one.
    let mut from: HashMap<Uuid, Uuid> = HashMap::new();
    let given: HashSet<Uuid> = parents.iter().copied().collect();
    let mut seen: HashSet<Uuid> = HashSet::new();
    let mut open = memory::collect(parents.iter().copied());
    while let Some(task) = open.pop() {
        pgrx::check_for_interrupts!();
        // Each join once: many tasks can share it.
        let Some(join) = of_child.get(&task).filter(|join| seen.insert(join.id)) else { continue };
        for parent in &join.parents {
            if from.contains_key(parent) || given.contains(parent) {
                continue;
            }
            from.insert(*parent, task);
            if children.contains(parent) {
                raise(*parent, &from);
            }
            memory::push(&mut open, *parent);
        }
    }
}

/// Raises the error of a cycle through a task: each task of the path depends on the next one.
fn raise(child: Uuid, from: &HashMap<Uuid, Uuid>) -> ! {
    let mut path = memory::collect([child]);
    let mut task = child;
    while let Some(below) = from.get(&task) {
        memory::push(&mut path, *below);
        task = *below;
    }
    memory::push(&mut path, child);
    path.reverse();
    let length = path.len();
    path.truncate(MOST_NAMES);
    let names = names(&path);
    let first = names.first().map(|name| errors::cut(name)).unwrap_or_default();
    refuse_path(
        &format!("the dependencies make a cycle: task \"{first}\" would depend on itself by way of others"),
        "parents",
        names.iter().map(String::as_str),
        length,
    )
}

/// Raises the error of a cycle, with the first names of its path, which has this length.
pub fn refuse_path<'a>(message: &str, argument: &str, names: impl Iterator<Item = &'a str>, length: usize) -> ! {
    let shown: Vec<&str> = names.take(MOST_NAMES).map(errors::cut).collect();
    let mut detail = json!({ "argument": argument, "cycle": shown });
    if length > shown.len() {
        detail["more"] = json!(length - shown.len());
    }
    errors::invalid(message, &detail, "Remove one of the dependencies in DETAIL: each task depends on the next one.")
}

fn have_parents(tasks: &[Uuid]) -> bool {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT FROM workflow.task_instances AS t \
             WHERE t.id OPERATOR(pg_catalog.=) ANY ($1) AND t.join_id IS NOT NULL LIMIT 1"
                .to_owned(),
            &[pg_sys::UUIDARRAYOID],
        );
    }
    LOOK_UP.with(|plan| plan.run(&[Some(uuids_datum(tasks))], |rows| rows.len() > 0))
}

/// Returns the names of tasks, in their order.
pub fn names(tasks: &[Uuid]) -> Vec<String> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT t.id, t.task_id FROM workflow.task_instances AS t WHERE t.id OPERATOR(pg_catalog.=) ANY ($1)".to_owned(),
            &[pg_sys::UUIDARRAYOID],
        );
    }
    let read = |rows: Rows| -> HashMap<Uuid, String> {
        let pair = |row| Some((rows.uuid(row, 1)?, memory::copy(rows.text(row, 2)?)));
        (0..rows.len()).filter_map(pair).collect()
    };
    let known = LOOK_UP.with(|plan| plan.run(&[Some(uuids_datum(tasks))], read));
    memory::collect(tasks.iter().map(|task| known.get(task).map(|name| memory::copy(name)).unwrap_or_default()))
}
