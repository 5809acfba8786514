//! Ending claims whose time has run out, each in a subtransaction of its own: one that the database refuses to end, or that
//! takes longer than statement_timeout, keeps none of the others.

use super::end::{self, Expired};
use super::refused;
use crate::errors;
use crate::ffi::error::raise_again;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::subtransaction;
use crate::ffi::transaction::{self, Failure};
use crate::ffi::uuid::Uuid;
use crate::{dependencies, memory};
use pgrx::pg_sys::{self, Datum};
use std::cell::Cell;

/// How many claims that have run out are looked up at once, at least.
const PAGE: usize = 100;

const HINT: &str = "End it with workflow.transition(), or remove the cause.";

thread_local! {
    /// The task at which the session's last call was canceled by statement_timeout. The next call begins after it.
    static CUT: Cell<Uuid> = const { Cell::new(FIRST) };
}

const FIRST: Uuid = Uuid([0; 16]);
const LAST: Uuid = Uuid([255; 16]);

/// Ends up to `max` claims that have run out.
pub fn reap(max: usize) -> Vec<(Uuid, Expired)> {
    dependencies::look_for_all();
    // A role that may end no claim gets an error, not a warning for each.
    refused::check_right();
    // In a block they are the caller's, who may defer them to the commit.
    if !transaction::is_block() {
        check_constraints_at_once();
    }
    let mut reaped = Vec::new();
    let cut = CUT.replace(FIRST);
    if let Err(failure) =
        reap_between(cut, LAST, max, &mut reaped).and_then(|()| reap_between(FIRST, cut, max, &mut reaped))
    {
        errors::timed_out_reap(&failure);
    }
    reaped
}

/// Ends claims of the tasks after the first one and up to the last one. Returns the error of statement_timeout.
fn reap_between(first: Uuid, last: Uuid, max: usize, reaped: &mut Vec<(Uuid, Expired)>) -> Result<(), Failure> {
    let mut after = first;
    while reaped.len() < max && after < last {
        let page =
            in_time(after, || expired(after, last, max.max(PAGE)))?.unwrap_or_else(|failure| raise_again(&failure));
        for task in &page {
            after = *task;
            match in_time(after, || end::expire(after))? {
                Ok(Some(expired)) => memory::push(reaped, (after, expired)),
                // Renewed or ended meanwhile, or another transaction changes it.
                Ok(None) => {}
                Err(failure) => errors::refused_task("end the claim of", after, HINT, &failure),
            }
            if reaped.len() >= max {
                return Ok(());
            }
        }
        if page.len() < max.max(PAGE) {
            return Ok(());
        }
    }
    Ok(())
}

/// Does a part of the work. The outer error is that of statement_timeout: what was done before it stays.
fn in_time<R>(task: Uuid, work: impl FnOnce() -> R) -> Result<Result<R, Failure>, Failure> {
    match subtransaction::attempt_until_canceled(work) {
        Err(failure) if failure.is_cancel() && transaction::has_timed_out() => {
            CUT.set(task);
            Err(failure)
        }
        result => Ok(result.map_err(refused::of_task)),
    }
}

/// Returns the tasks after one of them whose claims have run out.
fn expired(after: Uuid, last: Uuid, limit: usize) -> Vec<Uuid> {
    thread_local! {
        static FIND: Plan = Plan::new(
            "SELECT t.id FROM workflow.task_instances AS t \
             WHERE t.state OPERATOR(pg_catalog.=) 'running' AND t.worker IS NOT NULL \
                 AND t.id OPERATOR(pg_catalog.>) $1 AND t.id OPERATOR(pg_catalog.<=) $2 \
                 AND (t.start_date OPERATOR(pg_catalog.+) t.timeout OPERATOR(pg_catalog.<) pg_catalog.clock_timestamp() \
                     OR workflow.has_expired(t.id, t.version, t.start_date, t.lease_expires_at)) \
             ORDER BY t.id LIMIT $3"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::INT8OID],
        );
    }
    let values = [Some(after.as_datum()), Some(last.as_datum()), Some(Datum::from(limit))];
    let ids = |rows: Rows| memory::collect((0..rows.len()).filter_map(|row| rows.uuid(row, 1)));
    FIND.with(|plan| plan.run(&values, ids))
}

/// Lets deferred triggers and foreign keys of this transaction refuse what they refuse at once, and not at its commit.
pub fn check_constraints_at_once() {
    thread_local! {
        static SET: Plan = Plan::new("SET CONSTRAINTS ALL IMMEDIATE".to_owned(), &[]);
    }
    SET.with(|plan| plan.run(&[], |_| ()));
}
