//! The table `parked`: tasks that claims have met in `ready` while their DAG was paused or their run had ended. The
//! transaction that changes that brings them back.

use crate::entity::EntityType;
use crate::ffi::member;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::uuid_array;
use crate::{memory, places, ready, rights};
use pgrx::pg_sys;
use std::ffi::CStr;

const TABLE: &CStr = c"parked";

/// A task that no claim may take now.
#[derive(Clone, Copy)]
pub struct Parked {
    pub run: Uuid,
    pub task: Uuid,
}

/// Locks a task to park it. Returns false if another transaction changes or parks it.
pub fn lock(task: Uuid) -> bool {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT FROM workflow.task_instances AS t WHERE t.id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE SKIP LOCKED"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let lock = || LOCK.with(|plan| plan.run(&[Some(task.as_datum())], |rows| rows.len() > 0));
    rights::as_owner_of(EntityType::TaskInstance.relation(), lock)
}

/// Parks tasks. Their rows are locked, and those of their runs and DAGs.
pub fn park(tasks: &[Parked]) {
    thread_local! {
        static INSERT: Plan = Plan::new(
            "INSERT INTO workflow.parked (dag_run_id, task_instance_id) \
             SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS p \
             ON CONFLICT ON CONSTRAINT parked_pkey DO NOTHING"
                .to_owned(),
            &[pg_sys::UUIDARRAYOID, pg_sys::UUIDARRAYOID],
        );
    }
    if tasks.is_empty() {
        return;
    }
    let runs = Some(uuid_array(memory::collect(tasks.iter().map(|parked| parked.run.as_datum()))));
    let ids = Some(uuid_array(memory::collect(tasks.iter().map(|parked| parked.task.as_datum()))));
    rights::as_owner_of(TABLE, || INSERT.with(|plan| plan.run(&[runs, ids], |_| ())));
}

/// Lets the tasks of a DAG be claimed again, whose row must be locked: a claim that parks them waits for it, or is seen.
pub fn bring_back_dag(dag: Uuid) {
    thread_local! {
        static RUNS: Plan = Plan::new(
            "SELECT r.id FROM workflow.dag_runs AS r \
             WHERE r.dag_id OPERATOR(pg_catalog.=) $1 \
                 AND EXISTS (SELECT FROM workflow.parked AS p WHERE p.dag_run_id OPERATOR(pg_catalog.=) r.id)"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    if !exists() {
        return;
    }
    let ids = |rows: Rows| memory::collect((0..rows.len()).filter_map(|row| rows.uuid(row, 1)));
    let runs = || RUNS.with(|plan| plan.run_with_latest(&[Some(dag.as_datum())], ids));
    bring_back_runs(&rights::as_owner_of(TABLE, runs));
}

/// Lets the tasks of runs be claimed again. The rows of the runs must be locked.
pub fn bring_back_runs(runs: &[Uuid]) {
    thread_local! {
        static BRING_BACK: Plan = Plan::new(
            "WITH back AS ( \
                 DELETE FROM workflow.parked AS p WHERE p.dag_run_id OPERATOR(pg_catalog.=) ANY ($1) \
                 RETURNING p.task_instance_id) \
             INSERT INTO workflow.ready (queue_id, priority, ready_at, task_instance_id, version) \
             SELECT t.queue_id, COALESCE(t.priority, 5), GREATEST(t.not_before, pg_catalog.clock_timestamp()), t.id, t.version \
             FROM workflow.task_instances AS t \
             WHERE t.id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT b.task_instance_id FROM back AS b)) \
                 AND t.queue_id IS NOT NULL AND '{queued,retrying}'::pg_catalog.text[] OPERATOR(pg_catalog.@>) ARRAY[t.state]"
                .to_owned(),
            &[pg_sys::UUIDARRAYOID],
        );
    }
    if runs.is_empty() || !exists() {
        return;
    }
    let ids = [Some(uuid_array(memory::collect(runs.iter().map(Uuid::as_datum))))];
    // The snapshot of the transaction may not show what a claim has parked since.
    let bring_back = || BRING_BACK.with(|plan| plan.run_with_latest(&ids, |rows: Rows| rows.len()));
    if rights::as_owner_of(TABLE, bring_back) > 0 {
        ready::wake_waiters();
        places::note_others();
    }
}

/// Whether the catalog has the table. That of 0.2.0 has not.
fn exists() -> bool {
    member::relation(TABLE).is_some()
}

/// Moves tasks to queues of their tenant, and adds the rows of `ready` that are missing; returns how many.
#[pgrx::pg_extern(sql = false)]
fn recover_ready() -> i64 {
    thread_local! {
        static CREATE_QUEUES: Plan = Plan::of_whole_tables(
            "INSERT INTO workflow.queue_settings (tenant, name) \
             SELECT DISTINCT t.tenant, t.queue FROM workflow.tasks_of_foreign_queues() AS t \
             ON CONFLICT ON CONSTRAINT queue_settings_tenant_name_key DO NOTHING"
                .to_owned(),
            &[],
        );
        static MOVE: Plan = Plan::of_whole_tables(
            "UPDATE workflow.task_instances AS i SET queue_id = q.id \
             FROM workflow.tasks_of_foreign_queues() AS t \
             JOIN workflow.queue_settings AS q \
                 ON q.tenant OPERATOR(pg_catalog.=) t.tenant AND q.name OPERATOR(pg_catalog.=) t.queue \
             WHERE i.id OPERATOR(pg_catalog.=) t.id"
                .to_owned(),
            &[],
        );
        static INSERT: Plan = Plan::of_whole_tables(
            "INSERT INTO workflow.ready (queue_id, priority, ready_at, task_instance_id, version) \
             SELECT t.queue_id, COALESCE(t.priority, 5), GREATEST(t.not_before, pg_catalog.clock_timestamp()), t.id, t.version \
             FROM workflow.unclaimable_tasks() AS t"
                .to_owned(),
            &[],
        );
    }
    rights::refuse_restricted_operation();
    let run = |plan: &'static std::thread::LocalKey<Plan>| plan.with(|plan| plan.run(&[], |rows: Rows| rows.len()));
    let count = rights::as_owner_of(ready::TABLE, || {
        run(&CREATE_QUEUES);
        run(&MOVE) + run(&INSERT)
    });
    ready::wake_waiters();
    places::note_others();
    count as i64
}
