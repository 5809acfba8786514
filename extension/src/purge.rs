//! The deletions of purge(): not an event each, but a row in the table `purges` for all.

use crate::call::{self, Call};
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::{member, session};
use crate::{errors, rights};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::name;
use pgrx::pg_sys::{self, Datum};

type Outcome = (Option<String>, Option<i64>, Option<String>);

/// Deletes with the rights of its caller, and records the numbers as the owner.
#[pgrx::pg_extern(sql = false)]
fn purge_runs(
    before: TimestampWithTimeZone,
    max_runs: i32,
    dry_run: bool,
) -> TableIterator<'static, (name!(object, Option<String>), name!(rows, Option<i64>), name!(outcome, Option<String>))> {
    thread_local! {
        static DELETE: Plan = Plan::new(
            "SELECT d.object, d.rows, d.outcome FROM workflow.delete_finished_runs($1, $2, $3) AS d".to_owned(),
            &[pg_sys::TIMESTAMPTZOID, pg_sys::INT4OID, pg_sys::BOOLOID],
        );
    }
    rights::refuse_restricted_operation();
    let before: pg_sys::TimestampTz = before.into();
    let arguments = [Some(Datum::from(before)), Some(Datum::from(max_runs)), Some(Datum::from(dry_run))];
    let outcomes = call::during(Call::Purge, || {
        DELETE.with(|plan| {
            plan.run(&arguments, |rows| (0..rows.len()).map(|row| outcome(&rows, row)).collect::<Vec<_>>())
        })
    });
    if !dry_run {
        record(before, &outcomes);
    }
    TableIterator::new(outcomes)
}

fn outcome(rows: &Rows, row: usize) -> Outcome {
    let text = |column| rows.text(row, column).map(str::to_owned);
    (text(1), Some(rows.i64(row, 2)), text(3))
}

/// Writes the row of a purge that has deleted something.
fn record(before: i64, outcomes: &[Outcome]) {
    thread_local! {
        static RECORD: Plan = Plan::new(
            "INSERT INTO workflow.purges (before, dag_runs, task_instances, task_logs) VALUES ($1, $2, $3, $4)".to_owned(),
            &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID],
        );
    }
    let deleted = ["dag_runs", "task_instances", "task_logs"].map(|table| {
        let rows = outcomes.iter().filter(|(object, _, _)| object.as_deref() == Some(table));
        rows.filter_map(|(_, rows, _)| *rows).sum::<i64>()
    });
    if deleted[0] == 0 {
        return;
    }
    let Some((_, owner)) = member::relation(c"purges") else { errors::not_a_member("table workflow.purges") };
    let [runs, tasks, logs] = deleted.map(|rows| Some(Datum::from(rows)));
    session::as_owner(owner, || RECORD.with(|plan| plan.run(&[Some(Datum::from(before)), runs, tasks, logs], |_| ())));
}
