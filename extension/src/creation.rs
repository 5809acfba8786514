//! Creating runs and tasks (`creation/tasks.rs`), with their first event, in one transaction.
//!
//! Ordinary roles may insert into neither table: the functions check the caller, then act as the owner.

mod tasks;

use crate::append::append_creations_in;
use crate::args;
use crate::call::{self, Call, Creation};
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::guc;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::session;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::clock;
use crate::{fields, memory, rights, tenant, unrecorded};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::{self, Datum, Oid};

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
        // The lock waits for a transaction that deletes the DAG. The foreign key would tell of it as its violation.
        static INSERT: Plan = Plan::new(
            "INSERT INTO workflow.dag_runs (dag_id, execution_date, conf, created_at, updated_at) \
             SELECT d.id, $2, $3, $4, $4 FROM workflow.dags AS d WHERE d.id OPERATOR(pg_catalog.=) $1 \
             FOR KEY SHARE \
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
    record_unrecorded(dag, creation, dag, vec![(run, None)]);
    pgrx::Uuid::from_bytes(run.0)
}

/// Runs one of the INSERTs above and returns the new IDs.
fn insert(creation: Creation, plan: &Plan, values: &[Option<Datum>]) -> Vec<Uuid> {
    let run = || call::during(Call::Creation(creation), || plan.run(values, ids));
    rights::as_owner_of(creation.kind.relation(), || guc::with_settings(rights::SETTINGS, run))
}

/// Column 1 of the returned rows: the new IDs.
fn ids(rows: Rows) -> Vec<Uuid> {
    memory::collect((0..rows.len()).filter_map(|row| rows.uuid(row, 1)))
}

/// Records the creation of entities, unless a later event of theirs has already been recorded after it.
fn record_unrecorded(dag: Uuid, creation: Creation, parent: Uuid, mut created: Vec<(Uuid, Option<&str>)>) {
    created.retain(|(id, _)| !unrecorded::take_creation(*id));
    if !created.is_empty() {
        append_creations_in(dag, creation, parent, &created);
    }
}
