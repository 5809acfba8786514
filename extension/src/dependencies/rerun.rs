//! Running again what has failed, with what never ran because of it.
//!
//! The tasks go back to `retrying`, without an attempt, and their joins are undecided again: the look before the commit
//! finds a parent to watch, or decides. So a task that is put back waits as a new one does.

mod plan;

use super::add::{lock_run, names, refuse_unknown};
use crate::call::{self, Call, Request};
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::guc;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::text_datum;
use crate::ffi::{session, snapshot, transaction};
use crate::hold::Given;
use crate::joins::waits::{self, Wait};
use crate::joins::{self, Joins, uuids_datum};
use crate::{args, endings, memory, rights, tenant};
use pg_workflow_state_machine::{Fate, State};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::{self, Oid};
use pgrx::{Array, name};
use plan::{Graph, Rerun, Task};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The most names of parents in an error.
const MOST_NAMES: usize = 10;

/// The function rerun_tasks() of SQL.
#[pgrx::pg_extern(sql = false)]
fn rerun_tasks(
    dag_run_id: Option<pgrx::Uuid>,
    tasks: Option<Array<'_, &'_ str>>,
    downstream: Option<bool>,
    dry_run: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(id, pgrx::Uuid),
        name!(task_id, String),
        name!(old_state, &'static str),
        name!(new_state, &'static str),
        name!(is_ready, bool),
    ),
> {
    rights::refuse_restricted_operation();
    // A decision writes no row that an older snapshot would conflict with.
    if transaction::has_fixed_snapshot() {
        errors::fixed_snapshot("rerun tasks");
    }
    session::refuse_read_only(c"rerun_tasks()");
    let run = Uuid(*args::not_null("dag_run_id", dag_run_id).as_bytes());
    let tasks = tasks.map(|tasks| names("tasks", Some(tasks)));
    let downstream = args::not_null("downstream", downstream);
    let dry_run = args::not_null("dry_run", dry_run);
    let role = session::user();
    if !tenant::sees_run(role, run) {
        refuse_missing_run(run);
    }
    let work = || Wanted { run, tasks, downstream }.rerun(role, dry_run);
    TableIterator::new(rights::as_owner_of(joins::TABLE, work))
}

fn refuse_missing_run(run: Uuid) -> ! {
    errors::missing("dag_run", &run.to_string(), "rerun tasks")
}

/// A row of the result.
type Row = (pgrx::Uuid, String, &'static str, &'static str, bool);

/// What a caller wants.
struct Wanted {
    run: Uuid,
    /// The names of the tasks; `None`: all that failed.
    tasks: Option<BTreeSet<String>>,
    downstream: bool,
}

impl Wanted {
    fn rerun(&self, role: Oid, dry_run: bool) -> Vec<Row> {
        let state = if dry_run { state_of(self.run) } else { lock_run(self.run) };
        let state = state.unwrap_or_else(|| refuse_missing_run(self.run));
        if state.is_terminal() {
            errors::run_is_final(self.run, state);
        }
        let mut locked = Rerun::default();
        let (graph, rerun) = loop {
            let graph = read(self.run);
            let rerun = self.plan(&graph);
            if dry_run || (rerun.tasks.is_subset(&locked.tasks) && rerun.joins.is_subset(&locked.joins)) {
                break (graph, rerun);
            }
            // A look that is about to decide by the old states commits first; a later one finds the join locked.
            lock(&rerun);
            locked.tasks.extend(&rerun.tasks);
            locked.joins.extend(&rerun.joins);
        };
        if !dry_run && !rerun.tasks.is_empty() {
            self.write(&graph, &rerun, state, role);
        }
        let row = |id: &Uuid| {
            let task = &graph.tasks[id];
            let is_ready = graph.fate(task, &rerun.tasks) == Fate::Run;
            let [old, new] = [task.state, after(task.state)].map(State::as_str);
            (pgrx::Uuid::from_bytes(id.0), memory::copy(&task.name), old, new, is_ready)
        };
        memory::collect(rerun.tasks.iter().map(row))
    }

    /// Returns what runs again. Raises an error if a named task cannot.
    fn plan(&self, graph: &Graph) -> Rerun {
        let Some(names) = &self.tasks else { return graph.rerun(None, self.downstream) };
        let known: HashMap<&str, Uuid> = graph.tasks.iter().map(|(id, task)| (task.name.as_str(), *id)).collect();
        let asked = names.iter().map(|name| *known.get(name.as_str()).unwrap_or_else(|| refuse_unknown("tasks", name)));
        let asked: HashSet<Uuid> = asked.collect();
        let all = || asked.iter().map(|id| (*id, &graph.tasks[id]));
        if let Some((id, task)) = all().find(|(_, task)| !task.has_failed()) {
            errors::has_not_failed(id, &task.name, task.state);
        }
        let rerun = graph.rerun(Some(&asked), self.downstream);
        if let Some((id, task)) = all().find(|(id, _)| !rerun.tasks.contains(id)) {
            let mut parents = graph.unsuccessful_parents(task);
            parents.truncate(MOST_NAMES);
            errors::would_fail_again(id, &task.name, &parents);
        }
        rerun
    }

    fn write(&self, graph: &Graph, rerun: &Rerun, state: State, role: Oid) {
        let run = self.run;
        if state.is_finished() {
            let to = if state == State::UpstreamFailed { State::Queued } else { State::Running };
            move_all(EntityType::DagRun, &[run], state, to, role);
        }
        // Before the tasks move, so that none gets into a queue that has to wait.
        for join in rerun.joins.iter().chain([&run]) {
            waits::insert_unlocked(&Wait::again(*join, i32::MAX));
            endings::note_join(*join);
        }
        for from in [State::Failed, State::UpstreamFailed] {
            let tasks = rerun.tasks.iter().filter(|id| graph.tasks[id].state == from);
            move_all(EntityType::TaskInstance, &memory::collect(tasks.copied()), from, after(from), role);
        }
        transaction::next_command();
    }
}

/// The state of a task that failed so, when it is put back.
fn after(state: State) -> State {
    if state == State::UpstreamFailed { State::Queued } else { State::Retrying }
}

/// Reads the tasks and the dependencies of a run.
fn read(run: Uuid) -> Graph {
    thread_local! {
        static TASKS: Plan = Plan::new(
            "SELECT t.id, t.task_id, t.state, t.try_number::pg_catalog.int8, t.start_date, t.join_id \
             FROM workflow.task_instances AS t WHERE t.dag_run_id OPERATOR(pg_catalog.=) $1"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let read = |rows: Rows| {
        let task = |row| {
            let task = Task {
                name: memory::copy(rows.text(row, 2)?),
                state: rows.text(row, 3)?.parse().ok()?,
                try_number: rows.i64(row, 4) as i32,
                start_date: rows.get(row, 5).map(|time| time.value() as i64),
                join: rows.uuid(row, 6),
            };
            Some((rows.uuid(row, 1)?, task))
        };
        (0..rows.len()).filter_map(task).collect()
    };
    let tasks = TASKS.with(|plan| plan.run_with_latest(&[Some(run.as_datum())], read));
    let table = Joins::open();
    let joins = snapshot::with_newest(|| table.of_run(run));
    table.close();
    let joins = joins.into_iter().filter(|join| !join.is_of_run()).map(|join| (join.id, join)).collect();
    Graph { tasks, joins }
}

/// Locks the tasks, then the joins, each in the order of their IDs.
fn lock(rerun: &Rerun) {
    thread_local! {
        static LOCK: [Plan; 2] = ["task_instances", "joins"].map(|table| {
            Plan::new(
                format!(
                    "SELECT FROM workflow.{table} AS l WHERE l.id OPERATOR(pg_catalog.=) ANY ($1) \
                     ORDER BY l.id FOR NO KEY UPDATE"
                ),
                &[pg_sys::UUIDARRAYOID],
            )
        });
    }
    for (n, ids) in [&rerun.tasks, &rerun.joins].into_iter().enumerate() {
        let ids = memory::collect(ids.iter().copied());
        LOCK.with(|plans| plans[n].run(&[Some(uuids_datum(&ids))], |_| ()));
    }
}

fn state_of(run: Uuid) -> Option<State> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT r.state FROM workflow.dag_runs AS r WHERE r.id OPERATOR(pg_catalog.=) $1".to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let state = |rows: Rows| if rows.len() > 0 { rows.text(0, 1)?.parse().ok() } else { None };
    LOOK_UP.with(|plan| plan.run_with_latest(&[Some(run.as_datum())], state))
}

/// Moves entities that are locked. The IDs must be sorted.
fn move_all(kind: EntityType, ids: &[Uuid], from: State, to: State, role: Oid) {
    thread_local! {
        static UPDATE: [Plan; 2] = [EntityType::DagRun, EntityType::TaskInstance].map(|kind| {
            Plan::new(
                format!(
                    "UPDATE {} AS e SET state = $2 \
                     WHERE e.id OPERATOR(pg_catalog.=) ANY ($1) AND e.state OPERATOR(pg_catalog.=) $3",
                    kind.table()
                ),
                &[pg_sys::UUIDARRAYOID, pg_sys::TEXTOID, pg_sys::TEXTOID],
            )
        });
    }
    if ids.is_empty() {
        return;
    }
    let values = [Some(uuids_datum(ids)), Some(text_datum(to.as_str())), Some(text_datum(from.as_str()))];
    let given = Given { is_put_back: kind == EntityType::TaskInstance, ..Given::default() };
    let words = Jsonb::object_of("reason", "rerun");
    let request = Request::new(memory::collect(ids.iter().copied()), words, None).giving(given).by(role);
    call::during(Call::Transition(request), || {
        guc::with_settings(rights::SETTINGS, || UPDATE.with(|plans| plans[kind as usize].run(&values, |_| ())))
    });
}
