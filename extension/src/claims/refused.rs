//! Tasks whose change the database refuses: a trigger, a constraint or a policy of an administrator, or another transaction
//! that is in the way of one. Such a task must keep none of the others from workers, nor their leases from renewal.
//!
//! An error does not tell whether it is about the task or about the call. So what is about the call is asked before the first
//! task: the right to UPDATE, a read-only transaction. After that, each error is the task's, except for those of a canceled
//! statement and of a server without memory or disk.

use super::busy;
use crate::errors;
use crate::ffi::error::raise_again;
use crate::ffi::plan::Plan;
use crate::ffi::subtransaction;
use crate::ffi::transaction::{self, Failure};
use crate::ffi::uuid::Uuid;
use crate::ffi::values::monotonic;
use pgrx::pg_sys::{self, Datum};
use std::cell::RefCell;
use std::collections::HashMap;

/// How long a session does not try again to claim a refused task, in microseconds.
const REST: i64 = 10_000_000;

thread_local! {
    /// Until when each task rests, of this version.
    static RESTING: RefCell<HashMap<(Uuid, i64), i64>> = RefCell::default();
}

/// Raises PostgreSQL's error if the role may not change tasks, or the transaction nothing at all.
pub fn check_right() {
    thread_local! {
        static CHECK: Plan =
            Plan::new("SELECT FROM workflow.task_instances AS t WHERE false FOR NO KEY UPDATE".to_owned(), &[]);
    }
    CHECK.with(|plan| plan.run(&[], |_| ()));
}

/// Does something with tasks, and returns the error that one of them has.
pub fn attempt<R>(work: impl FnOnce() -> R) -> Result<R, Failure> {
    subtransaction::attempt(work).map_err(of_task)
}

/// Returns the error if it is about a task; raises it again if it is not.
pub fn of_task(failure: Failure) -> Failure {
    if failure.is_cancel() || failure.is_of_server() || (failure.is_conflict() && transaction::has_fixed_snapshot()) {
        raise_again(&failure);
    }
    failure
}

/// Changes a task by a statement; `None`: another transaction is in the way, or has changed it. Raises an error if a trigger
/// or a policy withholds the change: then this transaction can lock the task, and no other one is in the way.
pub fn change<R>(statement: impl Fn() -> Option<R>, can_lock: impl FnOnce() -> bool) -> Option<R> {
    statement().or_else(|| can_lock().then(|| statement().unwrap_or_else(|| errors::withheld())))
}

/// Whether the role can lock a task at this version. `join`: which the task must have.
pub fn can_lock(task: Uuid, version: i64, join: Option<Uuid>) -> bool {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT FROM workflow.task_instances AS t \
             WHERE t.id OPERATOR(pg_catalog.=) $1 AND t.version OPERATOR(pg_catalog.=) $2 \
                 AND '{queued,retrying,running}'::pg_catalog.text[] OPERATOR(pg_catalog.@>) ARRAY[t.state] \
                 AND ($3 IS NULL OR COALESCE(t.join_id, '00000000-0000-0000-0000-000000000000') OPERATOR(pg_catalog.=) $3) \
             FOR NO KEY UPDATE SKIP LOCKED"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::INT8OID, pg_sys::UUIDOID],
        );
    }
    let values = [Some(task.as_datum()), Some(Datum::from(version)), join.as_ref().map(Uuid::as_datum)];
    LOCK.with(|plan| plan.run(&values, |rows| rows.len() > 0))
}

/// Whether the session has lately tried in vain to claim a task.
pub fn rests(task: Uuid, version: i64) -> bool {
    RESTING.with_borrow(|all| all.get(&(task, version)).is_some_and(|until| monotonic() < *until))
}

/// Lets a task rest that cannot be claimed.
pub fn rest(task: Uuid, version: i64) {
    RESTING.with_borrow_mut(|all| {
        let now = monotonic();
        if all.len() >= 2 * busy::MOST {
            all.retain(|_, until| now < *until);
        }
        if all.len() < 2 * busy::MOST {
            all.insert((task, version), now + REST);
        }
    });
}
