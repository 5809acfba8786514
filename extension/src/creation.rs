//! Creating runs and tasks, with their first event, in one transaction.
//!
//! Ordinary roles may insert into neither table: the functions check the caller, then act as the owner.

use crate::append::append;
use crate::args;
use crate::call::{self, Call};
use crate::dag_of::dag_of;
use crate::entity::EntityType;
use crate::errors;
use crate::event::Event;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::clock;
use crate::ffi::{member, session};
use crate::history::Origin;
use crate::{fields, memory, rights, tenant};
use pg_workflow_state_machine::State;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::name;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{Array, IntoDatum};
use std::ffi::CStr;

/// The function create_dag_run() of SQL.
#[pgrx::pg_extern(sql = false)]
fn create_run(
    dag_id: Option<pgrx::Uuid>,
    execution_date: Option<TimestampWithTimeZone>,
    conf: Option<Jsonb>,
) -> pgrx::Uuid {
    create_run_for(session::user(), dag_id, execution_date, conf)
}

/// For the catalogs of 0.1.0 and 0.2.0: they declare it SECURITY DEFINER, so the current role is the owner.
#[pgrx::pg_extern(sql = false)]
fn create_dag_run(
    dag_id: Option<pgrx::Uuid>,
    execution_date: Option<TimestampWithTimeZone>,
    conf: Option<Jsonb>,
) -> pgrx::Uuid {
    create_run_for(session::outer_user(), dag_id, execution_date, conf)
}

fn create_run_for(
    caller: Oid,
    dag_id: Option<pgrx::Uuid>,
    execution_date: Option<TimestampWithTimeZone>,
    conf: Option<Jsonb>,
) -> pgrx::Uuid {
    rights::refuse_restricted_operation();
    thread_local! {
        static INSERT: Plan = Plan::new(
            "INSERT INTO workflow.dag_runs (dag_id, execution_date, conf) \
             SELECT d.id, $2, $3 FROM workflow.dags AS d WHERE d.id OPERATOR(pg_catalog.=) $1 \
             RETURNING id"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::JSONBOID],
        );
    }
    let dag = Uuid(*args::not_null("dag_id", dag_id).as_bytes());
    let date: pg_sys::TimestampTz = args::not_null("execution_date", execution_date).into();
    fields::check_date("execution_date", date);
    let conf = args::json_object("conf", conf);
    let values = [Some(dag.as_datum()), Some(Datum::from(date)), Some(conf.datum())];
    let runs =
        if tenant::sees_dag(caller, dag) { INSERT.with(|plan| insert(c"dag_runs", plan, &values)) } else { Vec::new() };
    let Some(&run) = runs.first() else { errors::missing("dag", &dag.to_string(), "create a run of it") };
    record(EntityType::DagRun, caller, dag, run, &[(run, None)]);
    pgrx::Uuid::from_bytes(run.0)
}

type NewTasks = TableIterator<'static, (name!(id, pgrx::Uuid), name!(task_id, String))>;

/// The function create_task_instances() of SQL.
#[pgrx::pg_extern(sql = false)]
fn create_tasks(
    dag_run_id: Option<pgrx::Uuid>,
    task_ids: Option<Array<'_, &'_ str>>,
    max_tries: Option<i32>,
) -> TableIterator<'static, (name!(id, pgrx::Uuid), name!(task_id, String))> {
    create_tasks_for(session::user(), dag_run_id, task_ids, max_tries)
}

/// For the catalogs of 0.1.0 and 0.2.0: they declare it SECURITY DEFINER, so the current role is the owner.
#[pgrx::pg_extern(sql = false)]
fn create_task_instances(
    dag_run_id: Option<pgrx::Uuid>,
    task_ids: Option<Array<'_, &'_ str>>,
    max_tries: Option<i32>,
) -> TableIterator<'static, (name!(id, pgrx::Uuid), name!(task_id, String))> {
    create_tasks_for(session::outer_user(), dag_run_id, task_ids, max_tries)
}

fn create_tasks_for(
    caller: Oid,
    dag_run_id: Option<pgrx::Uuid>,
    task_ids: Option<Array<'_, &'_ str>>,
    max_tries: Option<i32>,
) -> NewTasks {
    rights::refuse_restricted_operation();
    thread_local! {
        static INSERT: Plan = Plan::new(
            "INSERT INTO workflow.task_instances (dag_run_id, task_id, max_tries) \
             SELECT r.id, t.task_id, $3 \
             FROM workflow.dag_runs AS r \
             CROSS JOIN pg_catalog.unnest($2) WITH ORDINALITY AS t (task_id, ordinal) \
             WHERE r.id OPERATOR(pg_catalog.=) $1 \
             ORDER BY t.ordinal \
             RETURNING id"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::TEXTARRAYOID, pg_sys::INT4OID],
        );
    }
    let run = Uuid(*args::not_null("dag_run_id", dag_run_id).as_bytes());
    let task_ids = args::array("task_ids", task_ids);
    let names = memory::collect(task_ids.iter().map(|name| {
        let name = args::not_null("task_ids", name);
        args::check_task_id("task_ids", name);
        memory::copy(name)
    }));
    let max_tries = args::check_max_tries(args::not_null("max_tries", max_tries));

    let values = [Some(run.as_datum()), task_ids.into_datum(), Some(Datum::from(max_tries))];
    let is_seen = tenant::sees_run(caller, run);
    let tasks = if is_seen { INSERT.with(|plan| insert(c"task_instances", plan, &values)) } else { Vec::new() };
    let Some(dag) = as_owner_of(c"dag_runs", || dag_of(run)).filter(|_| is_seen && tasks.len() == names.len()) else {
        errors::missing("dag_run", &run.to_string(), "create tasks in it")
    };
    let created = memory::collect(tasks.iter().zip(&names).map(|(task, name)| (*task, Some(name.as_str()))));
    record(EntityType::TaskInstance, caller, dag, run, &created);
    TableIterator::new(tasks.into_iter().map(|task| pgrx::Uuid::from_bytes(task.0)).zip(names))
}

/// Runs one of the INSERTs above and returns the new IDs.
fn insert(table: &CStr, plan: &Plan, values: &[Option<Datum>]) -> Vec<Uuid> {
    as_owner_of(table, || call::during(Call::Creation, || plan.run(values, ids)))
}

fn as_owner_of<R>(table: &CStr, work: impl FnOnce() -> R) -> R {
    match member::relation(table) {
        Some((_, owner)) => session::as_owner(owner, work),
        None => errors::not_a_member(&format!("table workflow.{}", table.to_string_lossy())),
    }
}

/// Column 1 of the returned rows: the new IDs.
fn ids(rows: Rows) -> Vec<Uuid> {
    memory::collect((0..rows.len()).filter_map(|row| rows.uuid(row, 1)))
}

/// Appends the creation of entities of one run to the history.
fn record(kind: EntityType, caller: Oid, dag_id: Uuid, dag_run_id: Uuid, created: &[(Uuid, Option<&str>)]) {
    let actor = session::session_user();
    let metadata = Jsonb::empty_object();
    let acted_as = session::acted_as(caller);
    let origin = Origin { acted_as: acted_as.as_deref(), ..Origin::default() };
    append(created, origin, |id, (entity_id, task_id)| Event {
        id,
        entity_type: kind.as_str(),
        entity_id: *entity_id,
        dag_id,
        dag_run_id,
        task_id: *task_id,
        old_state: None,
        new_state: Some(State::Queued.as_str()),
        version: 1,
        changed_at: clock(),
        actor: &actor,
        metadata,
    });
}

/// Checks a row of task_instances, for its CHECK constraint.
#[pgrx::pg_extern(sql = false)]
fn check_task_instance(task_id: &str, state: &str, max_tries: i32) -> bool {
    args::check_task_id("task_id", task_id);
    args::state("state", Some(state));
    args::check_max_tries(max_tries);
    true
}
