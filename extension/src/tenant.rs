//! Row security in functions that run as the owner, which would bypass it.

use crate::errors;
use crate::ffi::plan::Plan;
use crate::ffi::uuid::Uuid;
use crate::ffi::{member, session};
use crate::isolation;
use crate::rights;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

thread_local! {
    static SEE_DAG: Plan = see("dags");
    static SEE_RUN: Plan = see("dag_runs");
}

fn see(table: &str) -> Plan {
    Plan::new(format!("SELECT FROM workflow.{table} AS t WHERE t.id OPERATOR(pg_catalog.=) $1"), &[pg_sys::UUIDOID])
}

/// Whether row security shows the DAG to a role.
pub fn sees_dag(role: Oid, id: Uuid) -> bool {
    SEE_DAG.with(|plan| sees(role, c"dags", plan, id))
}

/// Whether row security shows the run to a role.
pub fn sees_run(role: Oid, id: Uuid) -> bool {
    SEE_RUN.with(|plan| sees(role, c"dag_runs", plan, id))
}

/// Also true if row security does not apply: then no query checks whether the row exists.
fn sees(role: Oid, table: &CStr, plan: &Plan, id: Uuid) -> bool {
    !is_restricted(role, table) || session::as_owner(role, || plan.run(&[Some(id.as_datum())], |rows| rows.len() > 0))
}

/// Whether row security hides rows of this table from a role.
pub fn is_restricted(role: Oid, table: &CStr) -> bool {
    member::relation(table).is_some_and(|(table, _)| session::is_restricted_in(table, role))
        && !isolation::shows_all_tenants()
}

/// For the functions that run as their caller.
#[pgrx::pg_extern(sql = false)]
fn refuse_restricted_reader() {
    rights::refuse_restricted_operation();
    if is_restricted(session::user(), c"state_history") {
        errors::feed_of_all_tenants();
    }
}

/// For the functions of 0.2.0, which run as the owner.
#[pgrx::pg_extern(sql = false)]
fn refuse_tenant() {
    rights::refuse_restricted_operation();
    if is_restricted(session::outer_user(), c"state_history") {
        errors::feed_of_all_tenants();
    }
}
