//! Adding dependencies between tasks that exist.
//!
//! A task has one join, so a child gets a new one, with the parents of its old one and the new ones. The new join watches no
//! task: the look before the commit finds one, or decides.

use super::creation::{open_tasks, tasks_of};
use super::{cycle, graph};
use crate::call::{self, Call};
use crate::errors;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::uuid::Uuid;
use crate::ffi::{session, snapshot, transaction};
use crate::joins::waits::{self, Wait, Waits};
use crate::joins::{self, Join, Joins, uuids_datum};
use crate::{args, endings, memory, rights, tenant};
use pg_workflow_state_machine::{State, TriggerRule};
use pgrx::Array;
use pgrx::pg_sys;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The function add_dependencies() of SQL.
#[pgrx::pg_extern(sql = false)]
fn add_dependencies(
    dag_run_id: Option<pgrx::Uuid>,
    parents: Option<Array<'_, &'_ str>>,
    children: Option<Array<'_, &'_ str>>,
    trigger_rule: Option<&str>,
) -> i64 {
    rights::refuse_restricted_operation();
    // A decision writes no row that an older snapshot would conflict with.
    if transaction::has_fixed_snapshot() {
        errors::fixed_snapshot("add dependencies");
    }
    let run = Uuid(*args::not_null("dag_run_id", dag_run_id).as_bytes());
    let [parents, children] = [names("parents", parents), names("children", children)];
    let rule = trigger_rule.map(|name| graph::rule("trigger_rule", None, name));
    if let Some(name) = children.intersection(&parents).next() {
        graph::refuse_own_parent("parents", name);
    }
    if !tenant::sees_run(session::user(), run) {
        refuse_missing_run(run);
    }
    rights::as_owner_of(joins::TABLE, || add(run, &parents, &children, rule))
}

pub fn names(argument: &str, names: Option<Array<'_, &'_ str>>) -> BTreeSet<String> {
    args::array(argument, names).iter().map(|name| memory::copy(args::not_null(argument, name))).collect()
}

fn refuse_missing_run(run: Uuid) -> ! {
    errors::missing("dag_run", &run.to_string(), "add dependencies")
}

/// A task of which others are to become parents.
struct Child {
    id: Uuid,
    join: Option<Uuid>,
}

/// Locks the run: of two calls that add dependencies to a run, the later one sees those of the earlier one, so that they make
/// no cycle together; and no run ends meanwhile.
fn add(run: Uuid, parents: &BTreeSet<String>, children: &BTreeSet<String>, rule: Option<TriggerRule>) -> i64 {
    match lock_run(run) {
        None => refuse_missing_run(run),
        Some(state) if state.is_finished() => errors::run_has_ended(run, state),
        Some(_) => {}
    }
    let known = tasks_of(run, &memory::collect(parents.union(children).map(|name| memory::copy(name))));
    let [parents, children] = [("parents", parents), ("children", children)].map(|(argument, names)| {
        memory::collect(names.iter().map(|name| *known.get(name).unwrap_or_else(|| refuse_unknown(argument, name))))
    });
    let children = lock_children(&children);
    if parents.is_empty() || children.is_empty() {
        return 0;
    }
    cycle::refuse(run, &parents, &memory::collect(children.iter().map(|child| child.id)));
    let old = lock_joins(&children);
    let Changes { new, moved, count } = changes(run, &children, &old, parents, rule);
    if !new.is_empty() {
        write(run, &new, &moved, &old);
    }
    count
}

/// What a call changes.
struct Changes {
    new: Vec<Join>,
    /// The children of the new joins.
    moved: Vec<Uuid>,
    /// How many dependencies are new.
    count: i64,
}

/// Groups children that get the same rule and the same parents.
fn changes(
    run: Uuid,
    children: &[Child],
    old: &HashMap<Uuid, Join>,
    parents: Vec<Uuid>,
    rule: Option<TriggerRule>,
) -> Changes {
    let mut by_join: BTreeMap<Option<Uuid>, Vec<Uuid>> = BTreeMap::new();
    children.iter().for_each(|child| memory::push(by_join.entry(child.join).or_default(), child.id));
    let mut groups: BTreeMap<(TriggerRule, Vec<Uuid>), Vec<Uuid>> = BTreeMap::new();
    let mut count = 0;
    for (join, children) in by_join {
        let old = join.and_then(|join| old.get(&join));
        let (before, old_rule) = old.map_or((&[][..], TriggerRule::default()), |old| (&old.parents[..], old.rule));
        let mut all = memory::collect(before.iter().chain(&parents).copied());
        all.sort_unstable();
        all.dedup();
        let added = all.len() - before.len();
        let rule = rule.unwrap_or(old_rule);
        if added > 0 || rule != old_rule {
            count += (added * children.len()) as i64;
            let group = groups.entry((rule, all)).or_default();
            children.into_iter().for_each(|child| memory::push(group, child));
        }
    }
    let moved = memory::collect(groups.values().flatten().copied());
    let join = |((rule, parents), children)| Join { id: Uuid::new(), run, rule, parents, children };
    Changes { new: memory::collect(groups.into_iter().map(join)), moved, count }
}

/// Writes the new joins, and takes their children out of the old ones and out of `ready`.
fn write(run: Uuid, new: &[Join], moved: &[Uuid], old: &HashMap<Uuid, Join>) {
    let table = Joins::open();
    table.insert(new);
    table.close();
    let again = memory::collect(new.iter().map(|join| Wait::again(join.id, join.last_place())));
    let table = Waits::open();
    table.insert(&again);
    table.close();
    new.iter().for_each(|join| endings::note_join(join.id));
    new.iter().for_each(|join| set_join(&join.children, join.id));
    let gone: HashSet<Uuid> = moved.iter().copied().collect();
    old.values().for_each(|join| remove_children(join, &gone));
    remove_ready(moved);
    let_run_wait(run);
    transaction::next_command();
}

/// Lets the run end itself, as one that was created with dependencies.
fn let_run_wait(run: Uuid) {
    let table = Joins::open();
    let has_join = snapshot::with_newest(|| table.has(run));
    table.close();
    if has_join && snapshot::with_newest(|| waits::waits(run)) {
        return;
    }
    if !has_join {
        let parents = open_tasks(run);
        joins::insert_new(&Join { id: run, run, rule: TriggerRule::AllDone, parents, children: Vec::new() });
    }
    waits::insert_unlocked(&Wait::again(run, i32::MAX));
    endings::note_join(run);
}

/// Locks the run, and returns its state; `None` if there is none.
pub fn lock_run(run: Uuid) -> Option<State> {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT r.state FROM workflow.dag_runs AS r WHERE r.id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE".to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let state = |rows: Rows| if rows.len() > 0 { rows.text(0, 1)?.parse().ok() } else { None };
    LOCK.with(|plan| plan.run(&[Some(run.as_datum())], state))
}

/// Locks the children, in the order of their IDs. Raises an error if one has been started, or has ended.
fn lock_children(children: &[Uuid]) -> Vec<Child> {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT t.id, t.join_id, t.state, t.task_id FROM workflow.task_instances AS t \
             WHERE t.id OPERATOR(pg_catalog.=) ANY ($1) ORDER BY t.id FOR NO KEY UPDATE"
                .to_owned(),
            &[pg_sys::UUIDARRAYOID],
        );
    }
    let read = |rows: Rows| {
        let child = |row| {
            let state = rows.text(row, 3).and_then(|state| state.parse().ok()).unwrap_or(State::Queued);
            let id = rows.uuid(row, 1)?;
            if state != State::Queued {
                errors::takes_no_dependencies(id, rows.text(row, 4).unwrap_or_default(), state);
            }
            Some(Child { id, join: rows.uuid(row, 2) })
        };
        memory::collect((0..rows.len()).filter_map(child))
    };
    LOCK.with(|plan| plan.run(&[Some(uuids_datum(children))], read))
}

/// Locks and returns the joins of children. A transaction that decides one now waits for no lock, so this waits for its
/// commit only. Raises an error if one is decided.
fn lock_joins(children: &[Child]) -> HashMap<Uuid, Join> {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT FROM workflow.joins AS j WHERE j.id OPERATOR(pg_catalog.=) ANY ($1) ORDER BY j.id FOR NO KEY UPDATE"
                .to_owned(),
            &[pg_sys::UUIDARRAYOID],
        );
    }
    let ids: BTreeSet<Uuid> = children.iter().filter_map(|child| child.join).collect();
    if ids.is_empty() {
        return HashMap::new();
    }
    LOCK.with(|plan| plan.run(&[Some(uuids_datum(&memory::collect(ids.iter().copied())))], |_| ()));
    let table = Joins::open();
    let read = |id: Uuid| waits::waits(id).then(|| table.get(id)).flatten();
    let joins: HashMap<Uuid, Join> =
        snapshot::with_newest(|| ids.iter().filter_map(|id| Some((*id, read(*id)?))).collect());
    table.close();
    if let Some(child) = children.iter().find(|child| child.join.is_some_and(|join| !joins.contains_key(&join))) {
        errors::takes_no_dependencies(child.id, &cycle::names(&[child.id])[0], State::Queued);
    }
    joins
}

/// Sets the join of tasks, which no other statement may.
fn set_join(tasks: &[Uuid], join: Uuid) {
    thread_local! {
        static SET: Plan = Plan::new(
            "UPDATE workflow.task_instances AS t SET join_id = $2 WHERE t.id OPERATOR(pg_catalog.=) ANY ($1)".to_owned(),
            &[pg_sys::UUIDARRAYOID, pg_sys::UUIDOID],
        );
    }
    let values = [Some(uuids_datum(tasks)), Some(join.as_datum())];
    call::during(Call::Join, || SET.with(|plan| plan.run(&values, |_| ())));
}

/// Takes tasks out of a join. One without children stays, and waits for no task: deleting it would let a look wait that
/// notes that it could not lock it.
fn remove_children(join: &Join, moved: &HashSet<Uuid>) {
    thread_local! {
        static SET: Plan = Plan::new(
            "UPDATE workflow.joins AS j SET children = $2 WHERE j.id OPERATOR(pg_catalog.=) $1".to_owned(),
            &[pg_sys::UUIDOID, pg_sys::UUIDARRAYOID],
        );
        static FORGET: Plan = Plan::new(
            "DELETE FROM workflow.waits AS w WHERE w.join_id OPERATOR(pg_catalog.=) $1".to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let left = memory::collect(join.children.iter().copied().filter(|child| !moved.contains(child)));
    if left.len() < join.children.len() {
        SET.with(|plan| plan.run(&[Some(join.id.as_datum()), Some(uuids_datum(&left))], |_| ()));
    }
    if left.is_empty() {
        FORGET.with(|plan| plan.run(&[Some(join.id.as_datum())], |_| ()));
    }
}

/// Takes tasks that could be claimed out of their queues. A row that remains, because a claim is about to drop it, is one
/// of a task that waits. A task gets its rows after its creation, so older ones of its queue are not read.
fn remove_ready(tasks: &[Uuid]) {
    thread_local! {
        static REMOVE: Plan = Plan::new(
            "DELETE FROM workflow.ready AS r WHERE r.ctid OPERATOR(pg_catalog.=) ANY (ARRAY( \
                 SELECT l.ctid FROM ( \
                     SELECT t.queue_id, COALESCE(t.priority, 5::pg_catalog.int2) AS priority, \
                         pg_catalog.min(t.created_at) AS since \
                     FROM workflow.task_instances AS t \
                     WHERE t.id OPERATOR(pg_catalog.=) ANY ($1) AND t.queue_id IS NOT NULL GROUP BY 1, 2) AS q \
                 JOIN workflow.ready AS l ON l.queue_id OPERATOR(pg_catalog.=) q.queue_id \
                     AND l.priority OPERATOR(pg_catalog.=) q.priority AND l.ready_at OPERATOR(pg_catalog.>=) q.since \
                 WHERE (l.task_instance_id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($1))) IS TRUE \
                 FOR UPDATE OF l SKIP LOCKED))"
                .to_owned(),
            &[pg_sys::UUIDARRAYOID],
        );
    }
    REMOVE.with(|plan| plan.run(&[Some(uuids_datum(tasks))], |_| ()));
}

pub fn refuse_unknown(argument: &str, name: &str) -> ! {
    let name = errors::cut(name);
    errors::invalid(
        &format!("{argument} has task \"{name}\", which the run does not have"),
        &json!({ "argument": argument, "task_id": name }),
        "Check the name, or create the task first.",
    )
}
