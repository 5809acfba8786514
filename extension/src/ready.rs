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
use crate::{errors, joins, places, rights, signals};
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

    /// The beginning of all rows of a queue.
    pub fn begin(&self, queue_id: i32) -> Begin {
        Begin { columns: [self.queue_id, self.priority, self.ready_at], queue_id, priority: 0, ready_at: None }
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
    /// Returns the row of a task at a version, from now on; `None` if no queue has it, or if it does not wait for a worker.
    pub fn of(
        row: &Row,
        columns: &Columns,
        state: State,
        is_before_attempt: bool,
        version: i64,
        not_before: Option<i64>,
    ) -> Option<Ready> {
        row.i32(columns.task?.claim?.queue_id).filter(|_| waits(state))?;
        let join = columns.task?.join_id.and_then(|column| row.uuid(column));
        if is_before_attempt && join.is_some_and(joins::waits::is_waiting) {
            return None;
        }
        Ready::of_allowed(row, columns, version, not_before)
    }

    /// Returns the row of a task that has waited for others, and may run now.
    pub fn of_released(row: &Row, columns: &Columns) -> Option<Ready> {
        let claim = columns.task?.claim?;
        let state: State = row.text(columns.state)?.parse().ok()?;
        is_before_attempt(state, row.i64(columns.start_date)).then_some(())?;
        Ready::of_allowed(row, columns, row.i64(columns.version)?, row.i64(claim.not_before))
    }

    fn of_allowed(row: &Row, columns: &Columns, version: i64, not_before: Option<i64>) -> Option<Ready> {
        let claim = columns.task?.claim?;
        Some(Ready {
            queue_id: row.i32(claim.queue_id)?,
            priority: row.i16(claim.priority).unwrap_or(PRIORITY),
            // Not the time of the transition: that is ahead if the clock was set back.
            ready_at: ready_at(not_before, clock()),
            task: row.uuid(columns.id)?,
            version,
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
        let (version, not_before) = (new.i64(columns.version)?, new.i64(claim.not_before));
        let is_before_attempt = is_before_attempt(state, new.i64(columns.start_date));
        Ready::of(new, columns, state, is_before_attempt, version, not_before)
    }
}

/// Returns the time from which a task can be claimed that begins to wait now.
pub fn ready_at(not_before: Option<i64>, now: i64) -> i64 {
    not_before.map_or(now, |time| time.max(now))
}

/// Whether a task waits for others as long as its join is undecided: it has had no attempt since it was created, or since
/// rerun_tasks() put it back. A retry was allowed to run before, or was made by hand.
pub fn is_before_attempt(state: State, start_date: Option<i64>) -> bool {
    state == State::Queued || (state == State::Retrying && start_date.is_none())
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

/// Has the commit wake the sessions that wait for tasks.
pub fn wake_waiters() {
    signals::entry().into_iter().for_each(transaction::mark);
}

/// Adds rows.
pub fn add(rows: &[Ready]) {
    if rows.is_empty() {
        return;
    }
    wake_waiters();
    places::note(rows.iter().map(|row| (row.queue_id, row.priority, row.ready_at)));
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
