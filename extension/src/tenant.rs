//! Row security in functions that run as the owner, which would bypass it.

use crate::errors;
use crate::ffi::plan::Plan;
use crate::ffi::uuid::Uuid;
use crate::ffi::{member, session};
use crate::isolation;
use pgrx::pg_sys;
use std::ffi::CStr;

thread_local! {
    static SEE_DAG: Plan = see("dags");
    static SEE_RUN: Plan = see("dag_runs");
}

fn see(table: &str) -> Plan {
    Plan::new(format!("SELECT FROM workflow.{table} AS t WHERE t.id OPERATOR(pg_catalog.=) $1"), &[pg_sys::UUIDOID])
}

/// Whether row security shows the DAG to the session's role.
pub fn sees_dag(id: Uuid) -> bool {
    SEE_DAG.with(|plan| sees(c"dags", plan, id))
}

/// Whether row security shows the run to the session's role.
pub fn sees_run(id: Uuid) -> bool {
    SEE_RUN.with(|plan| sees(c"dag_runs", plan, id))
}

/// Also true if row security does not apply: then no query checks whether the row exists.
fn sees(table: &CStr, plan: &Plan, id: Uuid) -> bool {
    restricted_user(table)
        .is_none_or(|user| session::as_owner(user, || plan.run(&[Some(id.as_datum())], |rows| rows.len() > 0)))
}

/// Returns the session's role if row security hides rows of this table from it.
fn restricted_user(table: &CStr) -> Option<pg_sys::Oid> {
    let (table, _) = member::relation(table)?;
    session::restricted_user(table).filter(|_| !isolation::shows_all_tenants())
}

#[pgrx::pg_extern(sql = false)]
fn refuse_tenant() {
    if restricted_user(c"state_history").is_some() {
        errors::feed_of_all_tenants();
    }
}
