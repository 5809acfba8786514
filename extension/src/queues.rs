//! Queues: where tasks wait to be claimed. While tenants are isolated, a queue belongs to the tenant of its tasks' DAGs; else
//! it is a shared one, whose tenant is empty.

use crate::columns::{ClaimColumns, Columns};
use crate::errors;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::transaction;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::text_datum;
use crate::ready::{self, LOWEST_PRIORITY};
use crate::{args, fields, rights, tenant};
use pgrx::pg_sys::{self, Datum, Oid};
use serde_json::json;
use std::cell::Cell;
use std::ffi::CStr;

pub const TABLE: &CStr = c"queue_settings";

/// Checks a priority.
pub fn check_priority(priority: i32) -> i16 {
    match i16::try_from(priority) {
        Ok(priority) if (0..=LOWEST_PRIORITY).contains(&priority) => priority,
        _ => errors::invalid_argument(
            "priority",
            &json!(priority),
            "must be from 0 to 9",
            "Set priority to 0 (first) to 9 (last).",
        ),
    }
}

/// Returns the queue of this name for tasks of a run, and creates it if it is new; `None` if there is no such run.
pub fn of_run(run: Uuid, name: &str) -> Option<i32> {
    thread_local! {
        static FIND: Plan = Plan::new(
            "SELECT q.id FROM workflow.dag_runs AS r \
             JOIN workflow.dags AS d ON d.id OPERATOR(pg_catalog.=) r.dag_id \
             JOIN workflow.queue_settings AS q ON q.tenant OPERATOR(pg_catalog.=) \
                 CASE WHEN workflow.shows_all_tenants() THEN '' ELSE d.tenant END \
             WHERE r.id OPERATOR(pg_catalog.=) $1 AND q.name OPERATOR(pg_catalog.=) $2"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::TEXTOID],
        );
        static CREATE: Plan = Plan::new(
            "INSERT INTO workflow.queue_settings (tenant, name) \
             SELECT CASE WHEN workflow.shows_all_tenants() THEN '' ELSE d.tenant END, $2 FROM workflow.dag_runs AS r \
             JOIN workflow.dags AS d ON d.id OPERATOR(pg_catalog.=) r.dag_id \
             WHERE r.id OPERATOR(pg_catalog.=) $1 \
             ON CONFLICT ON CONSTRAINT queue_settings_tenant_name_key DO NOTHING"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::TEXTOID],
        );
    }
    let values = [Some(run.as_datum()), Some(text_datum(name))];
    let id = |rows: Rows| (rows.len() > 0).then(|| rows.get(0, 1)).flatten().map(|value| value.value() as i32);
    let find = || FIND.with(|plan| plan.run(&values, id));
    rights::as_owner_of(TABLE, || {
        find().or_else(|| {
            CREATE.with(|plan| plan.run(&values, |_| ()));
            find()
        })
    })
}

#[pgrx::pg_extern(sql = false)]
fn check_queue_name(name: Option<&str>) {
    args::name("queue", name);
}

/// The function queue_of_run() of SQL: for enqueue_task_instances().
#[pgrx::pg_extern(sql = false)]
fn queue_of_run(dag_run_id: Option<pgrx::Uuid>, name: Option<&str>) -> Option<i32> {
    rights::refuse_restricted_operation();
    let run = Uuid(*args::not_null("dag_run_id", dag_run_id).as_bytes());
    let name = args::name("queue", name);
    if tenant::sees_run(crate::ffi::session::user(), run) { of_run(run, name) } else { None }
}

/// Checks what an UPDATE writes about the queue of a task.
pub fn check_written(columns: &Columns, claim: &ClaimColumns, old: &Row, new: &Row) {
    let [was, priority] = [old, new].map(|row| row.i16(claim.priority));
    if was != priority {
        priority.into_iter().for_each(|priority| _ = check_priority(priority.into()));
    }
    fields::Written { old: Some(old), new }.check_date("not_before", claim.not_before);
    let [was, not_before] = [old, new].map(|row| row.i64(claim.not_before));
    let waits = new.text(columns.state).and_then(|state| state.parse().ok()).is_some_and(ready::waits);
    if not_before.is_some() && not_before != was && !waits {
        errors::invalid_argument(
            "not_before",
            &json!(null),
            "can be set only while the task waits",
            "Set it while the task is queued or retrying, or together with that state.",
        );
    }
    check_timeout(old.interval(claim.timeout), new.interval(claim.timeout));
    let [was, queue_id] = [old, new].map(|row| row.i32(claim.queue_id));
    if let Some(queue_id) = queue_id.filter(|_| was != queue_id) {
        check_queue(new.uuid(columns.parent).unwrap_or(Uuid([0; 16])), queue_id);
    }
}

fn check_timeout(was: Option<pgrx::datum::Interval>, timeout: Option<pgrx::datum::Interval>) {
    if let Some(timeout) = timeout.filter(|timeout| was.as_ref() != Some(timeout)) {
        super::claims::positive("timeout", Some(timeout));
    }
}

/// Checks that a run's tasks can be in a queue: it exists, and belongs to the tenant of the DAG.
fn check_queue(run: Uuid, queue_id: i32) {
    thread_local! {
        /// The last one, because a statement moves many tasks of a run.
        static KNOWN: Cell<Option<(Uuid, i32, u64, u32)>> = const { Cell::new(None) };
        static LOOK_UP: Plan = Plan::new(
            "SELECT FROM workflow.queue_settings AS q \
             JOIN workflow.dags AS d ON workflow.shows_all_tenants() OR d.tenant OPERATOR(pg_catalog.=) q.tenant \
             JOIN workflow.dag_runs AS r ON r.dag_id OPERATOR(pg_catalog.=) d.id \
             WHERE q.id OPERATOR(pg_catalog.=) $1 AND r.id OPERATOR(pg_catalog.=) $2"
                .to_owned(),
            &[pg_sys::INT4OID, pg_sys::UUIDOID],
        );
    }
    // A queue that this transaction has created can vanish by a rollback to a savepoint.
    let known = (run, queue_id, transaction::number(), transaction::level());
    if KNOWN.get() == Some(known) {
        return;
    }
    let values = [Some(Datum::from(queue_id)), Some(run.as_datum())];
    if !rights::as_owner_of(TABLE, || LOOK_UP.with(|plan| plan.run(&values, |rows| rows.len() > 0))) {
        errors::invalid_argument(
            "queue_id",
            &json!(queue_id),
            "must be a queue of the DAG's tenant",
            "Call workflow.enqueue_task_instances(), which takes the name of the queue.",
        );
    }
    KNOWN.set(Some(known));
}

/// A queue to claim from.
pub struct Queue {
    pub id: i32,
    pub slots: Option<i32>,
    pub paused_until: Option<i64>,
}

/// Returns the queues of this name from which a role may claim: one for each tenant that it can see.
pub fn named(role: Oid, name: &str) -> Vec<Queue> {
    thread_local! {
        static FIND: Plan = Plan::new(
            "SELECT q.id, q.slots, q.paused_until \
             FROM workflow.queue_settings AS q \
             WHERE q.name OPERATOR(pg_catalog.=) $1 AND ($2 OR q.tenant OPERATOR(pg_catalog.=) $3) ORDER BY q.id"
                .to_owned(),
            &[pg_sys::TEXTOID, pg_sys::BOOLOID, pg_sys::TEXTOID],
        );
    }
    let sees_all = !tenant::is_restricted(role, c"task_instances");
    let tenant = crate::ffi::session::name_of(role);
    let values = [Some(text_datum(name)), Some(Datum::from(sees_all)), Some(text_datum(&tenant))];
    let read = |rows: Rows| {
        let int = |row, column| rows.get(row, column).map(|value| value.value() as i32);
        let queue = |row| Queue {
            id: int(row, 1).unwrap_or(0),
            slots: int(row, 2),
            paused_until: rows.get(row, 3).map(|value| value.value() as i64),
        };
        crate::memory::collect((0..rows.len()).map(queue))
    };
    rights::as_owner_of(TABLE, || FIND.with(|plan| plan.run(&values, read)))
}

/// Returns how many tasks of a queue workers have claimed now.
pub fn running(queue: i32) -> i64 {
    thread_local! {
        static COUNT: Plan = Plan::new(
            "SELECT pg_catalog.count(*) FROM workflow.task_instances AS t \
             WHERE t.state OPERATOR(pg_catalog.=) 'running' AND t.queue_id OPERATOR(pg_catalog.=) $1 AND t.worker IS NOT NULL"
                .to_owned(),
            &[pg_sys::INT4OID],
        );
    }
    let count = || COUNT.with(|plan| plan.run(&[Some(Datum::from(queue))], |rows| rows.i64(0, 1)));
    rights::as_owner_of(c"task_instances", count)
}

/// The function refused_claims() of SQL: for the view queues.
#[pgrx::pg_extern(sql = false)]
fn refused_claims(queue_id: i32) -> Option<i64> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT FROM workflow.queue_settings AS q WHERE q.id OPERATOR(pg_catalog.=) $1".to_owned(),
            &[pg_sys::INT4OID],
        );
    }
    // With the caller's rights: row security hides the queues of other tenants.
    let is_visible = LOOK_UP.with(|plan| plan.run(&[Some(Datum::from(queue_id))], |rows| rows.len() > 0));
    if is_visible { crate::places::refused(queue_id).and_then(|count| i64::try_from(count).ok()) } else { None }
}

/// Has the commit of this transaction wake all sessions that wait for tasks: for set_queue().
#[pgrx::pg_extern(sql = false)]
fn wake_waiters() {
    ready::wake_waiters();
    crate::places::note_set_queue();
}

/// Returns how many tasks of a queue with slots may start now. Until the transaction ends, no other one starts one; `None`
/// if another transaction starts one now.
pub fn free_slots(queue: i32) -> Option<usize> {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT q.slots FROM workflow.queue_settings AS q WHERE q.id OPERATOR(pg_catalog.=) $1 \
             FOR NO KEY UPDATE SKIP LOCKED"
                .to_owned(),
            &[pg_sys::INT4OID],
        );
    }
    let slots = |rows: Rows| {
        let slots = || rows.get(0, 1).map_or(i64::MAX, |value| i64::from(value.value() as i32));
        (rows.len() > 0).then(slots)
    };
    let lock = || LOCK.with(|plan| plan.run(&[Some(Datum::from(queue))], slots));
    let slots = rights::as_owner_of(TABLE, lock)?;
    // By a snapshot of its own, after the lock.
    Some(usize::try_from(slots - running(queue)).unwrap_or(0))
}
