//! The graph of a trace, in linear time and without recursion: traces have tasks by the thousand.

use std::collections::HashMap;

use super::document::SpecifiedTask;
use super::{Problem, Task};

/// Tasks of a cycle that are named; of a longer one the rest is counted.
const NAMED: usize = 10;

/// Adds the edges. Some systems write parents, some children, some both, so it is the union that counts.
pub fn connect(tasks: &mut [Task], specified: &[SpecifiedTask], places: &HashMap<&str, usize>) -> Result<(), Problem> {
    for (place, task) in specified.iter().enumerate() {
        let find = |relation, id: &String| {
            let unknown = || Problem::UnknownTask { relation, id: id.clone(), task: task.id.clone() };
            places.get(id.as_str()).copied().ok_or_else(unknown)
        };
        for id in &task.parents {
            tasks[place].parents.push(find("parent", id)?);
        }
        for id in &task.children {
            tasks[find("child", id)?].parents.push(place);
        }
    }
    for place in 0..tasks.len() {
        let parents = &mut tasks[place].parents;
        parents.sort_unstable();
        parents.dedup();
        for parent in parents.clone() {
            tasks[parent].children.push(place);
        }
    }
    Ok(())
}

/// The places of the tasks, parents before children. Those on a cycle, and those behind one, are left out.
pub fn order(tasks: &[Task]) -> Vec<usize> {
    let mut missing: Vec<usize> = tasks.iter().map(|task| task.parents.len()).collect();
    let mut order: Vec<usize> = (0..tasks.len()).filter(|&place| missing[place] == 0).collect();
    let mut next = 0;
    while let Some(&place) = order.get(next) {
        next += 1;
        for &child in &tasks[place].children {
            missing[child] -= 1;
            if missing[child] == 0 {
                order.push(child);
            }
        }
    }
    order
}

pub fn refuse_cycle(tasks: &[Task]) -> Result<(), Problem> {
    let mut left = vec![true; tasks.len()];
    for place in order(tasks) {
        left[place] = false;
    }
    let Some(start) = left.iter().position(|&left| left) else {
        return Ok(());
    };
    let cycle = find_cycle(tasks, &left, start);
    let mut names: Vec<&str> = cycle.iter().take(NAMED).map(|&place| tasks[place].id.as_str()).collect();
    let more = format!("… ({} tasks in all)", cycle.len());
    if cycle.len() > NAMED {
        names.push(&more);
    }
    names.push(&tasks[cycle[0]].id);
    Err(Problem::Cycle(names.join(" → ")))
}

/// Every task that is left waits for another that is left, so going from parent to parent ends in a cycle.
fn find_cycle(tasks: &[Task], left: &[bool], start: usize) -> Vec<usize> {
    let mut path = Vec::new();
    let mut seen_at = vec![None; tasks.len()];
    let mut place = start;
    while seen_at[place].is_none() {
        seen_at[place] = Some(path.len());
        path.push(place);
        place = tasks[place].parents.iter().copied().find(|&parent| left[parent]).unwrap_or(place);
    }
    let mut cycle = path.split_off(seen_at[place].unwrap_or(0));
    cycle.reverse();
    cycle
}
