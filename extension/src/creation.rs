//! Creating runs and tasks, with their first event, in one transaction.
//!
//! Ordinary roles may insert into neither table: the functions check the caller, then act as the owner.

use crate::append::append_creations;
use crate::args;
use crate::call::{self, Call, Creation};
use crate::dag_of::dag_of;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::session;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::clock;
use crate::{fields, memory, rights, tenant, unrecorded};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::name;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{Array, IntoDatum};

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
            "INSERT INTO workflow.dag_runs (dag_id, execution_date, conf, created_at, updated_at) \
             SELECT d.id, $2, $3, $4, $4 FROM workflow.dags AS d WHERE d.id OPERATOR(pg_catalog.=) $1 \
             RETURNING id"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::JSONBOID, pg_sys::TIMESTAMPTZOID],
        );
    }
    let dag = Uuid(*args::not_null("dag_id", dag_id).as_bytes());
    let date: pg_sys::TimestampTz = args::not_null("execution_date", execution_date).into();
    fields::check_date("execution_date", date);
    let conf = args::json_object("conf", conf);
    let creation = Creation { kind: EntityType::DagRun, at: clock(), caller };
    let values = [Some(dag.as_datum()), Some(Datum::from(date)), Some(conf.datum()), Some(Datum::from(creation.at))];
    let is_seen = tenant::sees_dag(caller, dag);
    let runs = if is_seen { INSERT.with(|plan| insert(creation, plan, &values)) } else { Vec::new() };
    let Some(&run) = runs.first() else { errors::missing("dag", &dag.to_string(), "create a run of it") };
    record_unrecorded(creation, dag, vec![(run, None)]);
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
            "INSERT INTO workflow.task_instances (dag_run_id, task_id, max_tries, created_at, updated_at) \
             SELECT r.id, t.task_id, $3, $4, $4 \
             FROM workflow.dag_runs AS r \
             CROSS JOIN pg_catalog.unnest($2) WITH ORDINALITY AS t (task_id, ordinal) \
             WHERE r.id OPERATOR(pg_catalog.=) $1 \
             ORDER BY t.ordinal \
             RETURNING id"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::TEXTARRAYOID, pg_sys::INT4OID, pg_sys::TIMESTAMPTZOID],
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

    let creation = Creation { kind: EntityType::TaskInstance, at: clock(), caller };
    let at = Datum::from(creation.at);
    let values = [Some(run.as_datum()), task_ids.into_datum(), Some(Datum::from(max_tries)), Some(at)];
    let is_seen = tenant::sees_run(caller, run);
    let tasks = if is_seen { INSERT.with(|plan| insert(creation, plan, &values)) } else { Vec::new() };
    if !is_seen || tasks.len() != names.len() || dag_of(run).is_none() {
        errors::missing("dag_run", &run.to_string(), "create tasks in it")
    }
    let created = memory::collect(tasks.iter().zip(&names).map(|(task, name)| (*task, Some(name.as_str()))));
    record_unrecorded(creation, run, created);
    TableIterator::new(tasks.into_iter().map(|task| pgrx::Uuid::from_bytes(task.0)).zip(names))
}

/// Runs one of the INSERTs above and returns the new IDs.
fn insert(creation: Creation, plan: &Plan, values: &[Option<Datum>]) -> Vec<Uuid> {
    let table = match creation.kind {
        EntityType::DagRun => c"dag_runs",
        EntityType::TaskInstance => c"task_instances",
    };
    rights::as_owner_of(table, || call::during(Call::Creation(creation), || plan.run(values, ids)))
}

/// Column 1 of the returned rows: the new IDs.
fn ids(rows: Rows) -> Vec<Uuid> {
    memory::collect((0..rows.len()).filter_map(|row| rows.uuid(row, 1)))
}

/// Records the creation of entities, unless a later event of theirs has already been recorded after it.
fn record_unrecorded(creation: Creation, parent: Uuid, mut created: Vec<(Uuid, Option<&str>)>) {
    created.retain(|(id, _)| !unrecorded::take_creation(*id));
    if !created.is_empty() {
        append_creations(creation, parent, &created);
    }
}

/// Checks a row of task_instances, for its CHECK constraint.
#[pgrx::pg_extern(sql = false)]
fn check_task_instance(task_id: &str, state: &str, max_tries: i32) -> bool {
    args::check_task_id("task_id", task_id);
    args::state("state", Some(state));
    args::check_max_tries(max_tries);
    true
}
