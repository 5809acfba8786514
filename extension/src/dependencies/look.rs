//! The look: what the end of tasks means for those that wait for them.
//!
//! For each join that watches an ended task it locks the row of the join, unless another transaction has; reads by a
//! snapshot taken after that; and finds a parent that has not ended and that no transaction is about to change. It holds
//! the lock of this parent until it commits: the transaction that ends it then sees that it is watched. If there is no such parent, it
//! decides.

use super::children::{Decided, Settled};
use super::tasks::Tasks;
use super::{again, children, late, run_end};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::monotonic;
use crate::ffi::{snapshot, transaction};
use crate::joins::waits::{self, Stored, Wait, Waits};
use crate::joins::{Join, Joins, Tried};
use crate::memory;
use pg_workflow_state_machine::{Fate, Parents, State};
use pgrx::pg_sys::Oid;
use std::collections::BTreeMap;

/// How many parents that other transactions change are tried to be locked.
const MOST_TRIED: usize = 16;
/// How many names of parents an event has.
const MOST_NAMES: usize = 10;

/// What a look may do.
#[derive(Clone, Copy, PartialEq)]
pub enum Reach {
    /// A claim follows: children can run, but nothing ends, and no parent is held.
    Claim,
    /// The transaction is about to be prepared, and keeps its locks: no parent is held.
    Prepare,
    Commit,
}

/// What a look is about.
pub struct Question<'a> {
    /// It looks at the joins that watch these tasks, which are in ascending order.
    pub ended: &'a [Uuid],
    /// And at these joins.
    pub joins: &'a [Uuid],
    /// And at these, which others have left: if it leaves them, too, another session looks.
    pub left: &'a [Uuid],
    /// The role that acts.
    pub role: Oid,
    pub reach: Reach,
}

/// Why a look is at a join.
#[derive(Clone, Copy, PartialEq)]
enum Cause {
    /// It watches a task that has ended, and nothing else is known of it.
    Ended,
    Asked,
    Left,
}

/// Looks. Returns whether it has changed anything. The role must be the owner of the tables.
pub fn look(question: Question) -> bool {
    transaction::next_command();
    let found = snapshot::with_latest(|| find(&question));
    if found.is_empty() {
        return false;
    }
    let table = Joins::open();
    let mut locked = Vec::new();
    for (join, cause) in found {
        match table.try_lock(join) {
            Tried::Locked(join) => memory::push(&mut locked, (join, cause)),
            Tried::Busy if cause == Cause::Left => again::note(false),
            // The transaction that has locked it may not see what this transaction has ended.
            Tried::Busy => {
                again::note(true);
                waits::insert_unlocked(&Wait::again(join, i32::MAX));
            }
            Tried::Gone => {}
        }
    }
    table.close();
    transaction::next_command();
    // Those that decide: their children, and what becomes of them.
    let mut decided = Decided::new(question.role);
    snapshot::with_latest(|| {
        let (tasks, waits) = (Tasks::open(), Waits::open());
        let mut look = Look { tasks, waits, new: Vec::new(), reach: question.reach };
        for (join, cause) in &locked {
            let began = monotonic();
            look.at(join, (*cause == Cause::Ended).then_some(question.ended), &mut decided);
            if *cause == Cause::Left {
                again::rest_after(join.id, began);
            }
        }
        let Look { tasks, waits, new, .. } = look;
        waits.insert(&new);
        waits.close();
        tasks.close();
    });
    decided.write();
    true
}

/// Returns the joins to look at, exactly once each.
fn find(question: &Question) -> BTreeMap<Uuid, Cause> {
    let mut found = BTreeMap::new();
    let waits = Waits::open();
    let mut matches = waits.by_watched();
    for task in question.ended {
        matches.find(*task, *task);
        while let Some((row, _)) = matches.next() {
            found.insert(waits.read(&row).join, Cause::Ended);
        }
    }
    matches.close();
    waits.close();
    found.extend(question.joins.iter().map(|join| (*join, Cause::Asked)));
    found.extend(question.left.iter().map(|join| (*join, Cause::Left)));
    found
}

/// How the parents of a join have ended.
struct Ends {
    counts: Parents,
    /// The last place of a parent that has not ended.
    last_unended: Option<usize>,
    /// Some of those that failed, and of those that were skipped.
    failed: Vec<Uuid>,
    skipped: Vec<Uuid>,
}

struct Look {
    tasks: Tasks,
    waits: Waits,
    new: Vec<Wait>,
    reach: Reach,
}

impl Look {
    /// Looks at a join. `ended`: the only tasks that can have ended since it was looked at; `None`: any can have.
    fn at(&mut self, join: &Join, ended: Option<&[Uuid]>, decided: &mut Decided) {
        pgrx::check_for_interrupts!();
        let mut matches = self.waits.by_join();
        let rows = self.waits.of_join(&mut matches, join.id);
        matches.close();
        // None: it is decided.
        if rows.is_empty() {
            return;
        }
        if join.rule.is_early() {
            self.at_early(join, rows, ended, decided);
        } else {
            self.at_all(join, rows, decided);
        }
    }

    /// Looks at a join that watches one parent.
    fn at_all(&mut self, join: &Join, rows: Vec<Stored>, decided: &mut Decided) {
        if !self.leaves(&rows) && late::is_watched(join, &rows, &self.tasks, &self.waits) {
            return;
        }
        let bound = rows.iter().map(|row| row.wait.bound).min().unwrap_or(i32::MAX);
        let from = bound.min(join.last_place());
        let next = self.next_to_watch(join, from, &rows).or_else(|| {
            let ends = self.ends(&join.parents);
            // A parent that had ended runs again.
            match ends.last_unended {
                Some(_) => self.next_to_watch(join, join.last_place(), &rows),
                None => self.decide(join, &ends, decided),
            }
        });
        match next {
            Some(wait) => self.replace(rows, wait),
            None => self.waits.delete(&rows),
        }
    }

    /// Returns the row for the parent to watch next, at this place or before it; `None` if all have ended.
    fn next_to_watch(&self, join: &Join, from: i32, rows: &[Stored]) -> Option<Wait> {
        let mut bound = None;
        let mut tried = 0;
        for place in (0..=from).rev() {
            let task = join.parents[place as usize];
            if self.tasks.has_ended(task) {
                continue;
            }
            let bound = *bound.get_or_insert(place);
            let is_watched = rows.iter().any(|row| row.wait.watched == task);
            if is_watched || self.hold(task) {
                return Some(Wait { watched: task, join: join.id, bound });
            }
            tried += 1;
            if tried == MOST_TRIED || self.reach != Reach::Commit {
                break;
            }
        }
        bound.map(|bound| Wait::again(join.id, bound))
    }

    /// Looks at a join that watches each parent, because one of them can decide.
    fn at_early(&mut self, join: &Join, rows: Vec<Stored>, ended: Option<&[Uuid]>, decided: &mut Decided) {
        let ended = ended.filter(|_| !rows.iter().any(|row| row.wait.is_again()));
        let can_have_ended = |task: Uuid| ended.is_none_or(|ended| ended.binary_search(&task).is_ok());
        let (past, left): (Vec<Stored>, Vec<Stored>) = rows.iter().copied().partition(|Stored { wait, .. }| {
            wait.is_again() || (can_have_ended(wait.watched) && self.tasks.has_ended(wait.watched))
        });
        if ended.is_some() && !left.is_empty() {
            let mut counts = Parents { total: join.parents.len(), ..Parents::default() };
            for state in past.iter().filter_map(|row| self.tasks.state(row.wait.watched)) {
                counts.add(state);
            }
            if join.rule.fate(counts) == Fate::Undecided {
                self.waits.delete(&past);
                return;
            }
        }
        let ends = self.ends(&join.parents);
        if join.rule.fate(ends.counts) != Fate::Undecided {
            match self.decide(join, &ends, decided) {
                Some(wait) => self.replace(rows, wait),
                None => self.waits.delete(&rows),
            }
            return;
        }
        if self.leaves(&rows) {
            return;
        }
        self.waits.delete(&past);
        let is_watched = |task: &Uuid| left.iter().any(|row| row.wait.watched == *task);
        let unwatched = join.parents.iter().filter(|task| !self.tasks.has_ended(**task) && !is_watched(task));
        let mut new = Vec::new();
        for task in unwatched {
            let wait = Wait { watched: *task, join: join.id, bound: join.last_place() };
            let is_held = self.hold(*task);
            memory::push(&mut new, if is_held { wait } else { Wait::again(join.id, join.last_place()) });
        }
        let mut has_again = false;
        new.retain(|wait| !wait.is_again() || !std::mem::replace(&mut has_again, true));
        if has_again {
            again::note(!past.iter().any(|row| row.wait.is_again()));
        }
        new.into_iter().for_each(|wait| memory::push(&mut self.new, wait));
    }

    /// Holds a task, unless the transaction may last. Returns whether it does.
    fn hold(&self, task: Uuid) -> bool {
        self.reach == Reach::Commit && self.tasks.hold(task)
    }

    /// Whether the rows of an undecided join stay: another session looks at it, which can hold a parent.
    fn leaves(&self, rows: &[Stored]) -> bool {
        let leaves = self.reach != Reach::Commit && rows.iter().any(|row| row.wait.is_again());
        if leaves && self.reach == Reach::Prepare {
            again::note(true);
        }
        leaves
    }

    fn ends(&self, parents: &[Uuid]) -> Ends {
        let mut ends = Ends { counts: Parents::default(), last_unended: None, failed: Vec::new(), skipped: Vec::new() };
        for (place, task) in parents.iter().enumerate() {
            // A parent that was deleted counts no more.
            let Some(state) = self.tasks.state(*task) else { continue };
            ends.counts.add(state);
            match state {
                State::Failed | State::UpstreamFailed => memory::push(&mut ends.failed, *task),
                State::Skipped => memory::push(&mut ends.skipped, *task),
                State::Success => {}
                State::Queued | State::Running | State::Retrying => ends.last_unended = Some(place),
            }
        }
        ends
    }

    /// Decides what becomes of the children. Returns a row if another look is needed.
    fn decide(&mut self, join: &Join, ends: &Ends, decided: &mut Decided) -> Option<Wait> {
        let again = Wait::again(join.id, join.last_place());
        let fate = join.rule.fate(ends.counts);
        if self.reach == Reach::Claim && (join.is_of_run() || fate != Fate::Run) {
            return Some(again);
        }
        if join.is_of_run() {
            return run_end::end(join, |task| self.hold(task), decided.role);
        }
        let names =
            |tasks: &[Uuid]| memory::collect(tasks.iter().take(MOST_NAMES).filter_map(|task| self.tasks.name(*task)));
        let settled = match fate {
            Fate::Undecided => return Some(again),
            Fate::Run => decided.run(join, &self.tasks),
            Fate::Fail => {
                let why = children::Why { names: names(&ends.failed), count: ends.failed.len() };
                decided.end(join, State::Failed, &why, &self.tasks)
            }
            Fate::Skip => {
                let why = children::Why { names: names(&ends.skipped), count: ends.skipped.len() };
                decided.end(join, State::Skipped, &why, &self.tasks)
            }
        };
        match settled {
            Settled::All => None,
            Settled::Busy => Some(again),
            Settled::Refused => Some(refused(join)),
        }
    }

    /// Replaces the rows of a join by one.
    fn replace(&mut self, rows: Vec<Stored>, wait: Wait) {
        if self.leaves(&rows) {
            return;
        }
        if wait.is_again() {
            again::note(!rows.iter().any(|row| row.wait.is_again()));
        }
        let is_same = |row: &Wait| row.watched == wait.watched || (row.is_again() && wait.is_again());
        if let [row] = &rows[..]
            && row.wait.bound == wait.bound
            && is_same(&row.wait)
        {
            return;
        }
        self.waits.delete(&rows);
        memory::push(&mut self.new, wait);
    }
}

/// Returns the row of a join whose decision cannot be written, for example because a trigger of others refuses it: it watches
/// a task that has ended, so that only the next sweep looks again.
pub fn refused(join: &Join) -> Wait {
    Wait { watched: join.parents.first().copied().unwrap_or(join.id), join: join.id, bound: join.last_place() }
}
