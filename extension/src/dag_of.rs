//! The DAG of a run.

use crate::ffi::plan::{Plan, Rows};
use crate::ffi::uuid::Uuid;
use crate::rights;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;

/// Looks up the DAG of a run; `None` if the run does not exist. It never changes, so a backend looks only once.
pub fn dag_of(run: Uuid) -> Option<Uuid> {
    /// About 200 kB. A worker moves the tasks of a few runs at a time.
    const MAX_KNOWN: usize = 4096;
    thread_local! {
        static KNOWN: RefCell<HashMap<Uuid, Uuid>> = RefCell::new(HashMap::new());
        static LOOK_UP: Plan = Plan::new(
            "SELECT r.dag_id FROM workflow.dag_runs AS r WHERE r.id OPERATOR(pg_catalog.=) $1".to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    if let Some(dag) = KNOWN.with_borrow(|known| known.get(&run).copied()) {
        return Some(dag);
    }
    let first = |rows: Rows| if rows.len() == 0 { None } else { rows.uuid(0, 1) };
    // A role that moves tasks may lack the right to read runs.
    let dag = rights::as_owner_of(c"dag_runs", || LOOK_UP.with(|plan| plan.run(&[Some(run.as_datum())], first)))?;
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(run, dag);
    });
    Some(dag)
}
