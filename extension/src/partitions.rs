//! Creating and dropping partitions, which only their owner can. Administrators call these functions, which run with
//! the rights of their caller; they act as the owner after their checks.

use crate::errors;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::values::text_datum;
use crate::ffi::{session, transaction};
use crate::{rights, tenant};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::name;
use pgrx::pg_sys::{self, Datum};

#[pgrx::pg_extern(sql = false)]
fn open_partitions(
    period: Option<&str>,
) -> TableIterator<'static, (name!(partition, Option<String>), name!(outcome, Option<String>))> {
    thread_local! {
        static ADVANCE: Plan = Plan::new(
            "SELECT p.\"partition\", p.outcome FROM workflow.advance_partitions($1) AS p".to_owned(),
            &[pg_sys::TEXTOID],
        );
    }
    rights::refuse_restricted_operation();
    // Other sessions would wait for its locks until the transaction ends.
    if transaction::is_block() {
        errors::in_transaction_block("open partitions");
    }
    let arguments = [period.map(text_datum)];
    let steps = rights::as_owner_of(c"state_history", || {
        ADVANCE.with(|plan| {
            plan.run(&arguments, |rows| {
                (0..rows.len()).map(|row| (text(&rows, row, 1), text(&rows, row, 2))).collect::<Vec<_>>()
            })
        })
    });
    TableIterator::new(steps)
}

/// The part of purge() that needs the owner's rights.
#[pgrx::pg_extern(sql = false)]
fn purge_partitions(
    before: TimestampWithTimeZone,
    dry_run: bool,
) -> TableIterator<'static, (name!(object, Option<String>), name!(rows, Option<i64>), name!(outcome, Option<String>))> {
    thread_local! {
        static DROP: Plan = Plan::new(
            "SELECT p.object, p.rows, p.outcome FROM workflow.drop_old_partitions($1, $2) AS p".to_owned(),
            &[pg_sys::TIMESTAMPTZOID, pg_sys::BOOLOID],
        );
    }
    rights::refuse_restricted_operation();
    // A partition has the events of all tenants.
    if tenant::is_restricted(session::user(), c"state_history") {
        let kept = "kept: row security applies to this role".to_owned();
        return TableIterator::new(vec![(Some("partitions".to_owned()), Some(0), Some(kept))]);
    }
    let before: pg_sys::TimestampTz = before.into();
    let arguments = [Some(Datum::from(before)), Some(Datum::from(dry_run))];
    let dropped = rights::as_owner_of(c"state_history", || {
        DROP.with(|plan| {
            plan.run(&arguments, |rows| {
                (0..rows.len())
                    .map(|row| (text(&rows, row, 1), Some(rows.i64(row, 2)), text(&rows, row, 3)))
                    .collect::<Vec<_>>()
            })
        })
    });
    TableIterator::new(dropped)
}

fn text(rows: &Rows, row: usize, column: i32) -> Option<String> {
    rows.text(row, column).map(str::to_owned)
}
