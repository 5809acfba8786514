//! Tasks that had ended and run again, or will: what waits for them watches them again.

use super::tasks::Tasks;
use crate::ffi::snapshot;
use crate::ffi::transaction;
use crate::ffi::uuid::Uuid;
use crate::joins::waits::{self, Wait};
use crate::joins::{Join, Joins};
use crate::memory;
use std::collections::{BTreeMap, BTreeSet};

/// Lets the runs of these tasks watch one of them each, if they end themselves: the run may have watched none any more.
/// Returns the joins that watch each parent, and must watch such a task again. The role must be the owner of the tables.
pub fn watch(returned: &[(Uuid, Uuid)]) -> Vec<Uuid> {
    let mut runs: BTreeMap<Uuid, BTreeSet<Uuid>> = BTreeMap::new();
    returned.iter().for_each(|(task, run)| _ = runs.entry(*run).or_default().insert(*task));
    let mut found = Vec::new();
    for (run, tasks) in &runs {
        // A rollback to a savepoint can have undone that. The others, no other transaction can end before this one commits.
        let returned = snapshot::with_latest(|| {
            let table = Tasks::open();
            let returned: BTreeSet<Uuid> = tasks.iter().copied().filter(|task| !table.has_ended(*task)).collect();
            table.close();
            returned
        });
        let Some(task) = returned.first() else { continue };
        waits::insert_unlocked(&Wait { watched: *task, join: *run, bound: i32::MAX });
        let joins = Joins::open();
        let is_concerned =
            |join: &Join| join.rule.is_early() && join.parents.iter().any(|parent| returned.contains(parent));
        let early = snapshot::with_latest(|| joins.of_run(*run));
        early.iter().filter(|join| is_concerned(join)).for_each(|join| memory::push(&mut found, join.id));
        joins.close();
    }
    if !runs.is_empty() {
        transaction::next_command();
    }
    found
}
