//! The parts of runs that claims need.

use crate::columns::Columns;
use crate::entity::EntityType;
use crate::ffi::heap::{Heap, Lock};
use crate::ffi::jsonb::JsonbCopy;
use crate::ffi::member;
use crate::ffi::plan::Plan;
use crate::ffi::uuid::Uuid;
use crate::{memory, rights};
use pg_workflow_state_machine::State;
use pgrx::pg_sys;
use std::collections::HashMap;

/// A task's run.
pub struct Run {
    pub dag: Uuid,
    pub conf: JsonbCopy,
    pub blocked: Blocked,
    /// Whether it is queued, and whether the call has claimed a task of it.
    is_queued: bool,
    is_claimed: bool,
}

/// Whether no task of a run may start: it has ended, or its DAG is paused.
#[derive(Clone, Copy, PartialEq)]
pub enum Blocked {
    No,
    /// It stays so until the transaction ends: the rows are locked.
    Yes,
    /// Another transaction changes that.
    Perhaps,
}

/// The runs that a call has met. Each is looked up once.
#[derive(Default)]
pub struct Runs(HashMap<Uuid, Option<Run>>);

impl Runs {
    pub fn get(&mut self, run: Uuid) -> Option<&Run> {
        self.0.entry(run).or_insert_with(|| look_up(run)).as_ref()
    }

    /// Notes that the call has claimed a task of a run.
    pub fn note_claim(&mut self, run: Uuid) {
        if let Some(Some(run)) = self.0.get_mut(&run) {
            run.is_claimed = true;
        }
    }

    /// Returns the queued runs of which the call has claimed tasks.
    pub fn queued(&mut self) -> impl Iterator<Item = Uuid> {
        let is_started = |run: &Option<Run>| run.as_ref().is_some_and(|run| run.is_queued && run.is_claimed);
        let mut ids = memory::collect(self.0.iter().filter(|(_, run)| is_started(run)).map(|(id, _)| *id));
        ids.sort_unstable();
        ids.into_iter()
    }

    /// Returns a run that the call has met.
    pub fn known(&self, run: Uuid) -> Option<&Run> {
        self.0.get(&run)?.as_ref()
    }
}

fn look_up(run: Uuid) -> Option<Run> {
    let mut found = read(run)?;
    // The transaction that unpauses the DAG waits for this one, and then finds what it has parked.
    if found.blocked == Blocked::Perhaps && lock_blocked(run) {
        found.blocked = Blocked::Yes;
    }
    Some(found)
}

impl Run {
    fn new(dag: Uuid, conf: JsonbCopy, state: &str, is_paused: bool) -> Run {
        let state = state.parse();
        let has_ended = state.as_ref().is_ok_and(|state: &State| state.is_finished());
        let blocked = if has_ended || is_paused { Blocked::Perhaps } else { Blocked::No };
        Run { dag, conf, blocked, is_queued: state == Ok(State::Queued), is_claimed: false }
    }
}

/// Reads a run without a query.
fn read(run: Uuid) -> Option<Run> {
    let runs = open(EntityType::DagRun.relation())?;
    let columns = Columns::of_table(EntityType::DagRun, runs.relation().rd_id, |name| runs.find_column(name));
    let found = columns.and_then(|columns| {
        let found = runs.find(columns.id, run)?;
        let row = found.row();
        let read = || {
            Some((
                row.uuid(columns.parent)?,
                row.jsonb(columns.run?.conf)?.copy(memory::copy_bytes),
                row.text(columns.state)?,
            ))
        };
        let found_run = read().and_then(|(dag, conf, state)| Some(Run::new(dag, conf, state, is_paused(dag)?)));
        found.release();
        found_run
    });
    runs.close();
    found
}

fn is_paused(dag: Uuid) -> Option<bool> {
    let dags = open(c"dags")?;
    let found = dags.find(dags.find_column("id")?, dag);
    let is_paused = found.and_then(|found| {
        let is_paused = found.row().bool(dags.find_column("is_paused")?);
        found.release();
        is_paused
    });
    dags.close();
    is_paused
}

fn open(table: &std::ffi::CStr) -> Option<Heap> {
    Heap::open(member::relation(table)?.0, Lock::Rows)
}

/// Locks a run that is still blocked, and its DAG; returns false if another transaction changes one of them.
fn lock_blocked(run: Uuid) -> bool {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT FROM workflow.dag_runs AS r JOIN workflow.dags AS d ON d.id OPERATOR(pg_catalog.=) r.dag_id \
             WHERE r.id OPERATOR(pg_catalog.=) $1 AND (d.is_paused OR workflow.is_finished(r.state)) \
             FOR SHARE SKIP LOCKED"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let lock = || LOCK.with(|plan| plan.run(&[Some(run.as_datum())], |rows| rows.len() > 0));
    rights::as_owner_of(c"dag_runs", lock)
}
