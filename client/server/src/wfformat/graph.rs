//! The graph of a trace, in linear time and without recursion: traces have thousands of tasks.

use std::collections::HashMap;

use super::document::SpecifiedTask;
use super::{Problem, Task};

/// Number of tasks of a cycle to name; the rest is counted.
const NAMED: usize = 10;

/// Adds the edges: the union of parents and children, because some systems write only one of them.
pub fn connect(tasks: &mut [Task], specified: &[SpecifiedTask], indexes: &HashMap<&str, usize>) -> Result<(), Problem> {
    for (index, task) in specified.iter().enumerate() {
        let find = |relation, id: &String| {
            let unknown = || Problem::UnknownTask { relation, id: id.clone(), task: task.id.clone() };
            indexes.get(id.as_str()).copied().ok_or_else(unknown)
        };
        for id in &task.parents {
            tasks[index].parents.push(find("parent", id)?);
        }
        for id in &task.children {
            tasks[find("child", id)?].parents.push(index);
        }
    }
    for index in 0..tasks.len() {
        let parents = &mut tasks[index].parents;
        parents.sort_unstable();
        parents.dedup();
        for parent in parents.clone() {
            tasks[parent].children.push(index);
        }
    }
    Ok(())
}

/// Returns the indexes of the tasks, parents before children, without tasks on a cycle or after one.
pub fn sort(tasks: &[Task]) -> Vec<usize> {
    let mut missing: Vec<usize> = tasks.iter().map(|task| task.parents.len()).collect();
    let mut order: Vec<usize> = (0..tasks.len()).filter(|&index| missing[index] == 0).collect();
    let mut next = 0;
    while let Some(&index) = order.get(next) {
        next += 1;
        for &child in &tasks[index].children {
            missing[child] -= 1;
            if missing[child] == 0 {
                order.push(child);
            }
        }
    }
    order
}

pub fn reject_cycle(tasks: &[Task]) -> Result<(), Problem> {
    let mut left = vec![true; tasks.len()];
    for index in sort(tasks) {
        left[index] = false;
    }
    let Some(start) = left.iter().position(|&left| left) else {
        return Ok(());
    };
    let cycle = find_cycle(tasks, &left, start);
    let mut names: Vec<&str> = cycle.iter().take(NAMED).map(|&index| tasks[index].id.as_str()).collect();
    let more = format!("… ({} tasks in all)", cycle.len());
    if cycle.len() > NAMED {
        names.push(&more);
    }
    names.push(&tasks[cycle[0]].id);
    Err(Problem::Cycle(names.join(" → ")))
}

/// Follows parents from a task. Each remaining task depends on another remaining one, so the path ends in a cycle.
fn find_cycle(tasks: &[Task], left: &[bool], start: usize) -> Vec<usize> {
    let mut path = Vec::new();
    let mut seen_at = vec![None; tasks.len()];
    let mut index = start;
    while seen_at[index].is_none() {
        seen_at[index] = Some(path.len());
        path.push(index);
        index = tasks[index].parents.iter().copied().find(|&parent| left[parent]).unwrap_or(index);
    }
    let mut cycle = path.split_off(seen_at[index].unwrap_or(0));
    cycle.reverse();
    cycle
}
