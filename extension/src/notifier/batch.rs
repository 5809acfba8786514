//! A batch of notifications: reading the next events of a window, and sending them.

use crate::errors;
use crate::event::{CHANNEL, Event};
use crate::ffi::jsonb::Jsonb;
use crate::ffi::member;
use crate::ffi::notify::notify;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::shared::Progress;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{clock, text_datum};
use crate::position::Position;
use pgrx::pg_sys::{self, Datum, Oid};

/// The events between the notifier's position and a later one.
#[derive(Clone)]
pub struct Window {
    pub end: Position,
    /// The last event for which a notification was sent.
    pub notified_id: i64,
    /// The number of commits before the window was opened: it contains their events.
    pub commits: u64,
}

/// The events of one batch.
#[derive(Default)]
pub struct Batch {
    pub count: i64,
    pub last_id: i64,
}

impl Batch {
    /// Notifies of the next events of a window, `limit` at most. The commit sends the notifications.
    pub fn send(start: &Position, window: &Window, limit: i32, format: impl Fn(&Event) -> String) -> Batch {
        let end = &window.end;
        let arguments = [
            text_datum(&start.snapshot),
            Datum::from(start.next_transaction_id),
            Datum::from(start.floor_id),
            text_datum(&end.snapshot),
            Datum::from(end.next_transaction_id),
            Datum::from(end.floor_id),
            Datum::from(end.ceiling_id),
            Datum::from(window.notified_id),
            Datum::from(limit),
        ]
        .map(Some);
        if member::function(c"events_between", ARGUMENTS).is_none() {
            errors::not_a_member("function workflow.events_between");
        }
        READ.with(|plan| {
            plan.run(&arguments, |rows| {
                (0..rows.len()).for_each(|row| notify(CHANNEL, &format(&event(&rows, row))));
                let last_id = if rows.len() == 0 { 0 } else { rows.i64(rows.len() - 1, 1) };
                Batch { count: rows.len() as i64, last_id }
            })
        })
    }

    /// Adds the batch to the notifier's statistics.
    pub fn add_to(&self, progress: &mut Progress) {
        if self.count > 0 {
            progress.events += self.count;
            progress.batches += 1;
            progress.last_event_id = self.last_id;
            progress.notified_at = clock();
        }
    }
}

/// The argument types of `workflow.events_between()`. An exact match is the only function that PostgreSQL can choose.
const ARGUMENTS: &[Oid] = &[
    pg_sys::PG_SNAPSHOTOID,
    pg_sys::XID8OID,
    pg_sys::INT8OID,
    pg_sys::PG_SNAPSHOTOID,
    pg_sys::XID8OID,
    pg_sys::INT8OID,
    pg_sys::INT8OID,
    pg_sys::INT8OID,
    pg_sys::INT4OID,
];

thread_local! {
    static READ: Plan = Plan::new(
        "SELECT e.id, e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id, e.old_state, e.new_state, \
             e.version, e.changed_at, e.actor, e.metadata \
         FROM workflow.events_between($1::pg_catalog.pg_snapshot, $2, $3, \
             $4::pg_catalog.pg_snapshot, $5, $6, $7, $8, $9) AS e"
            .to_owned(),
        &[
            pg_sys::TEXTOID,
            pg_sys::XID8OID,
            pg_sys::INT8OID,
            pg_sys::TEXTOID,
            pg_sys::XID8OID,
            pg_sys::INT8OID,
            pg_sys::INT8OID,
            pg_sys::INT8OID,
            pg_sys::INT4OID,
        ],
    );
}

/// Reads the event of a row of the statement above.
fn event(rows: &Rows, row: usize) -> Event<'_> {
    let uuid = |column| rows.uuid(row, column).unwrap_or(Uuid([0; 16]));
    Event {
        id: rows.i64(row, 1),
        entity_type: rows.text(row, 2).unwrap_or_default(),
        entity_id: uuid(3),
        dag_id: uuid(4),
        dag_run_id: uuid(5),
        task_id: rows.text(row, 6),
        old_state: rows.text(row, 7),
        new_state: rows.text(row, 8),
        version: rows.i64(row, 9),
        changed_at: rows.i64(row, 10),
        actor: rows.text(row, 11).unwrap_or_default(),
        metadata: rows.jsonb(row, 12).unwrap_or_else(Jsonb::empty_object),
    }
}
