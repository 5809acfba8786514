//! The table `ready`: what can be claimed, and from when on. A row is a hint: a claim compares it with the task, and drops
//! it if the task has moved, or waits otherwise now.

use crate::columns::Columns;
use crate::ffi::heap::{Heap, Lock};
use crate::ffi::lane::{Begin, Lanes, Sight};
use crate::ffi::plan::Plan;
use crate::ffi::rows::Rows;
use crate::ffi::table_cache::TableCache;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::clock;
use crate::ffi::{member, transaction};
use crate::managed::Managed;
use crate::{errors, rights, signals};
use pg_workflow_state_machine::State;
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;

pub const TABLE: &CStr = c"ready";

/// The priority of a task that has none of its own. 0 is the highest.
pub const PRIORITY: i16 = 5;
pub const LOWEST_PRIORITY: i16 = 9;

/// A row of the table.
#[derive(Clone, Copy)]
pub struct Ready {
    pub queue_id: i32,
    pub priority: i16,
    pub ready_at: i64,
    pub task: Uuid,
    /// The version of the task for which the row holds.
    pub version: i64,
}

/// The columns of the table, from 1.
#[derive(Clone, Copy)]
pub struct ReadyColumns {
    pub queue_id: usize,
    pub priority: usize,
    pub ready_at: usize,
    pub task: usize,
    pub version: usize,
}

impl ReadyColumns {
    pub fn of(heap: &Heap) -> ReadyColumns {
        thread_local! {
            static KNOWN: TableCache<ReadyColumns> = const { TableCache::new() };
        }
        let look_up = || ReadyColumns {
            queue_id: heap.column("queue_id"),
            priority: heap.column("priority"),
            ready_at: heap.column("ready_at"),
            task: heap.column("task_instance_id"),
            version: heap.column("version"),
        };
        KNOWN.with(|known| known.get(heap.relation().rd_id, look_up))
    }

    /// Reads a row. All its columns are NOT NULL.
    pub fn read(&self, row: &Row) -> Ready {
        Ready {
            queue_id: row.i32(self.queue_id).unwrap_or(0),
            priority: row.i16(self.priority).unwrap_or(PRIORITY),
            ready_at: row.i64(self.ready_at).unwrap_or(0),
            task: row.uuid(self.task).unwrap_or(Uuid([0; 16])),
            version: row.i64(self.version).unwrap_or(0),
        }
    }
}

impl Ready {
    /// Returns the row of a task from a time on; `None` if no queue has it, or if it does not wait.
    pub fn of(row: &Row, columns: &Columns, state: State, hold: Waits, now: i64) -> Option<Ready> {
        let claim = columns.task?.claim?;
        let queue_id = row.i32(claim.queue_id).filter(|_| waits(state))?;
        Some(Ready {
            queue_id,
            priority: row.i16(claim.priority).unwrap_or(PRIORITY),
            ready_at: hold.not_before.map_or(now, |time| time.max(now)),
            task: row.uuid(columns.id)?,
            version: hold.version,
        })
    }

    /// Returns the row that an update adds: the task begins to wait, or waits in another place.
    pub fn after(old: &Row, new: &Row, columns: &Columns) -> Option<Ready> {
        let claim = columns.task?.claim?;
        new.i32(claim.queue_id)?;
        let place = |row: &Row| {
            let queue = (row.i32(claim.queue_id), row.i16(claim.priority), row.i64(claim.not_before));
            (queue, row.i64(columns.version))
        };
        if place(old) == place(new) {
            return None;
        }
        let state = new.text(columns.state)?.parse().ok()?;
        let written = Managed::of(new, columns);
        let waits = Waits { version: written.version, not_before: row_not_before(new, columns) };
        Ready::of(new, columns, state, waits, new.i64(columns.updated_at)?)
    }
}

fn row_not_before(row: &Row, columns: &Columns) -> Option<i64> {
    row.i64(columns.task?.claim?.not_before)
}

/// How a task waits after a transition.
#[derive(Clone, Copy)]
pub struct Waits {
    pub version: i64,
    pub not_before: Option<i64>,
}

/// Whether a task in this state can be claimed.
pub fn waits(state: State) -> bool {
    matches!(state, State::Queued | State::Retrying)
}

/// Opens the table. The lock stays until the transaction ends.
pub fn open() -> Heap {
    let table = member::relation(TABLE).and_then(|(table, _)| Heap::open(table, Lock::Write));
    table.unwrap_or_else(|| errors::not_a_member("table workflow.ready"))
}

/// Begins to read the rows of a queue.
pub fn lanes(heap: &Heap, begin: &Begin, sight: Sight) -> Lanes {
    Lanes::begin(heap, begin, sight).unwrap_or_else(|| errors::missing_index("ready_lane_idx"))
}

/// Adds rows, and has the commit wake the sessions that wait for tasks.
pub fn add(rows: &[Ready]) {
    if !rows.is_empty() {
        signals::entry().into_iter().for_each(transaction::mark);
        put_back(rows);
    }
}

/// Adds rows that a claim has taken away and could not use.
pub fn put_back(rows: &[Ready]) {
    if rows.is_empty() {
        return;
    }
    let heap = open();
    let columns = ReadyColumns::of(&heap);
    let mut new = Rows::new(heap.width(), rows.len());
    for row in rows {
        new.push(&[
            (columns.queue_id, Datum::from(row.queue_id)),
            (columns.priority, Datum::from(row.priority)),
            (columns.ready_at, Datum::from(row.ready_at)),
            (columns.task, row.task.as_datum()),
            (columns.version, Datum::from(row.version)),
        ]);
    }
    let is_inserted = heap.insert(&mut new);
    new.free();
    heap.close();
    if !is_inserted {
        rows.iter().for_each(insert);
    }
    transaction::next_command();
}

/// What can be claimed again.
#[derive(Clone, Copy)]
pub enum Parked {
    OfDag(Uuid),
    OfRun(Uuid),
}

impl Parked {
    /// Lets the tasks be claimed from now on that claims have parked: their DAG was paused, or their run had ended. The row
    /// of the DAG or the run must be locked: see `Taking`.
    pub fn unpark(self) {
        thread_local! {
            static PLANS: [Plan; 2] = ["u.dag_id", "u.id"].map(plan_to_unpark);
        }
        if member::relation(TABLE).is_none() {
            // A catalog of 0.2.0.
            return;
        }
        let (n, id) = match &self {
            Parked::OfDag(id) => (0, id),
            Parked::OfRun(id) => (1, id),
        };
        let values = [Some(id.as_datum()), Some(Datum::from(clock()))];
        let count =
            rights::as_owner_of(TABLE, || PLANS.with(|plans| plans[n].run_with_latest(&values, |rows| rows.len())));
        if count > 0 {
            signals::entry().into_iter().for_each(transaction::mark);
        }
    }
}

/// By the index: a probe of each lane.
fn plan_to_unpark(column: &'static str) -> Plan {
    Plan::new(
        format!(
            "UPDATE workflow.ready AS r SET ready_at = $2 \
             FROM workflow.queue_settings AS q CROSS JOIN pg_catalog.generate_series(0, 9) AS p (priority) \
             WHERE r.queue_id OPERATOR(pg_catalog.=) q.id AND r.priority OPERATOR(pg_catalog.=) p.priority \
                 AND r.ready_at OPERATOR(pg_catalog.=) 'infinity' \
                 AND EXISTS ( \
                     SELECT FROM workflow.task_instances AS t \
                     JOIN workflow.dag_runs AS u ON u.id OPERATOR(pg_catalog.=) t.dag_run_id \
                     WHERE t.id OPERATOR(pg_catalog.=) r.task_instance_id AND {column} OPERATOR(pg_catalog.=) $1)"
        ),
        &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID],
    )
}

/// Adds the rows that are missing; returns how many.
#[pgrx::pg_extern(sql = false)]
fn recover_ready() -> i64 {
    thread_local! {
        static INSERT: Plan = Plan::of_whole_tables(
            "INSERT INTO workflow.ready (queue_id, priority, ready_at, task_instance_id, version) \
             SELECT t.queue_id, COALESCE(t.priority, 5), GREATEST(t.not_before, pg_catalog.clock_timestamp()), t.id, t.version \
             FROM workflow.task_instances AS t \
             WHERE t.state OPERATOR(pg_catalog.=) ANY ('{queued,retrying}') AND t.queue_id IS NOT NULL \
                 AND NOT EXISTS ( \
                     SELECT FROM workflow.ready AS r \
                     WHERE r.task_instance_id OPERATOR(pg_catalog.=) t.id AND r.version OPERATOR(pg_catalog.=) t.version \
                         AND r.queue_id OPERATOR(pg_catalog.=) t.queue_id \
                         AND r.priority::pg_catalog.int4 OPERATOR(pg_catalog.=) COALESCE(t.priority::pg_catalog.int4, 5) \
                         AND r.ready_at OPERATOR(pg_catalog.>=) COALESCE(t.not_before, '-infinity') \
                         AND (pg_catalog.isfinite(r.ready_at) OR EXISTS ( \
                             SELECT FROM workflow.dag_runs AS u \
                             JOIN workflow.dags AS d ON d.id OPERATOR(pg_catalog.=) u.dag_id \
                             WHERE u.id OPERATOR(pg_catalog.=) t.dag_run_id AND (d.is_paused OR NOT \
                                 ('{queued,running,retrying}'::pg_catalog.text[] OPERATOR(pg_catalog.@>) ARRAY[u.state])))))"
                .to_owned(),
            &[],
        );
    }
    rights::refuse_restricted_operation();
    let count = rights::as_owner_of(TABLE, || INSERT.with(|plan| plan.run(&[], |rows| rows.len())));
    signals::entry().into_iter().for_each(transaction::mark);
    count as i64
}

/// An administrator has created an index of another kind.
fn insert(row: &Ready) {
    thread_local! {
        static INSERT: Plan = Plan::new(
            "INSERT INTO workflow.ready (queue_id, priority, ready_at, task_instance_id, version) \
             VALUES ($1, $2, $3, $4, $5)"
                .to_owned(),
            &[pg_sys::INT4OID, pg_sys::INT2OID, pg_sys::TIMESTAMPTZOID, pg_sys::UUIDOID, pg_sys::INT8OID],
        );
    }
    let values = [
        Some(Datum::from(row.queue_id)),
        Some(Datum::from(row.priority)),
        Some(Datum::from(row.ready_at)),
        Some(row.task.as_datum()),
        Some(Datum::from(row.version)),
    ];
    rights::as_owner_of(TABLE, || INSERT.with(|plan| plan.run(&values, |_| ())));
}
