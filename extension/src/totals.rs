//! The parts of the views of totals that are functions. A view reads its tables as its owner, but calls functions with
//! the rights of its reader: these act as the owner for it, and return only totals, transaction IDs and ids of all tenants.

use crate::errors;
use crate::ffi::plan::Plan;
use crate::ffi::scan::{self, Written};
use crate::ffi::{member, session};
use crate::history;
use pgrx::iter::{SetOfIterator, TableIterator};
use pgrx::name;
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

/// Runs `work` as the owner for a role that may read one of these tables and views.
fn as_owner_for_readers<R>(relations: &[&CStr], work: impl FnOnce() -> R) -> R {
    let mut known = relations.iter().filter_map(|relation| member::relation(relation));
    match known.find(|(relation, _)| session::may_read(*relation)) {
        Some((_, owner)) => session::as_owner(owner, work),
        None => errors::cannot_read(&relations.iter().filter_map(|name| name.to_str().ok()).collect::<Vec<_>>()),
    }
}

/// Counts the runs and tasks in each state that has any.
#[pgrx::pg_extern(sql = false)]
fn count_states() -> TableIterator<'static, (name!(entity_type, String), name!(state, String), name!(count, i64))> {
    thread_local! {
        static COUNT: Plan = Plan::of_whole_tables(
            "SELECT 'dag_run'::pg_catalog.text, r.state, pg_catalog.count(*) \
             FROM workflow.dag_runs AS r GROUP BY r.state \
             UNION ALL \
             SELECT 'task_instance'::pg_catalog.text, t.state, pg_catalog.count(*) \
             FROM workflow.task_instances AS t GROUP BY t.state"
                .to_owned(),
            &[],
        );
    }
    let counts = as_owner_for_readers(&[c"state_counts"], || {
        COUNT.with(|plan| {
            plan.run_in_snapshot(&[], |rows| {
                let text = |row, column| rows.text(row, column).unwrap_or_default().to_owned();
                (0..rows.len()).map(|row| (text(row, 1), text(row, 2), rows.i64(row, 3))).collect::<Vec<_>>()
            })
        })
    });
    TableIterator::new(counts)
}

/// Finds the lowest transaction ID in `at_least..before` that has written events with ids from `from_id` on.
#[pgrx::pg_extern(sql = false)]
fn next_writer(at_least: i64, before: i64, from_id: i64) -> Option<i64> {
    thread_local! {
        static NEXT: Plan = Plan::new(
            "SELECT h.transaction_id \
             FROM workflow.state_history AS h \
             WHERE h.transaction_id OPERATOR(pg_catalog.>=) $1 \
                AND h.transaction_id OPERATOR(pg_catalog.<) $2 \
                AND h.id OPERATOR(pg_catalog.>=) $3 \
             ORDER BY h.transaction_id \
             LIMIT 1"
                .to_owned(),
            &[pg_sys::XID8OID, pg_sys::XID8OID, pg_sys::INT8OID],
        );
    }
    let arguments = [at_least, before, from_id].map(|number| Some(Datum::from(number)));
    as_owner_for_readers(&[c"state_history", c"state_counts", c"consumer_lag"], || {
        NEXT.with(|plan| plan.run_in_snapshot(&arguments, |rows| (rows.len() > 0).then(|| rows.i64(0, 1))))
    })
}

/// Finds the events that a transaction has written, from `from_id` on.
#[pgrx::pg_extern(sql = false)]
fn written_ids(
    transaction_id: i64,
    after_id: i64,
    up_to_id: i64,
    from_id: i64,
    max: i32,
) -> SetOfIterator<'static, i64> {
    let written = Written { transaction_id, after: after_id.max(from_id - 1), up_to: up_to_id };
    let most = usize::try_from(max).unwrap_or_default();
    let ids = as_owner_for_readers(&[c"state_history", c"state_counts", c"consumer_lag"], || {
        let history = history::open_to_read();
        let leaves = history.leaves(written.after.saturating_add(1), up_to_id);
        let ids = if leaves.iter().all(|leaf| scan::is_plain(leaf.table)) {
            let mut ids = Vec::new();
            for leaf in leaves {
                if ids.len() >= most {
                    break;
                }
                written.find(leaf.table, most, &mut ids);
            }
            ids
        } else {
            query(written, max)
        };
        history.close();
        ids
    });
    SetOfIterator::new(ids)
}

/// Finds the same events if an administrator has put something else in the place of a partition. Not by the primary key,
/// which old statistics would make the planner choose.
fn query(written: Written, max: i32) -> Vec<i64> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT h.id FROM workflow.state_history AS h \
             WHERE h.transaction_id OPERATOR(pg_catalog.=) $1 \
                AND h.id OPERATOR(pg_catalog.+) 0 OPERATOR(pg_catalog.>) $2 \
                AND h.id OPERATOR(pg_catalog.+) 0 OPERATOR(pg_catalog.<=) $3 \
             ORDER BY h.id OPERATOR(pg_catalog.+) 0 LIMIT $4"
                .to_owned(),
            &[pg_sys::XID8OID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID],
        );
    }
    let Written { transaction_id, after, up_to } = written;
    let arguments = [transaction_id, after, up_to, max.into()].map(|number| Some(Datum::from(number)));
    LOOK_UP.with(|plan| plan.run_in_snapshot(&arguments, |rows| (0..rows.len()).map(|row| rows.i64(row, 1)).collect()))
}
