//! A batch of notifications: reading the next events of a window, and sending them.

use super::state::Window;
use crate::errors;
use crate::event::{CHANNEL, Event, payload};
use crate::ffi::jsonb::Jsonb;
use crate::ffi::member;
use crate::ffi::notify::notify;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::shared::Progress;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::clock;
use crate::position::Position;
use crate::settings::Notification;
use pgrx::pg_sys::{self, Datum, Oid};

/// A batch of events that have been read, and those of them that have been sent.
#[derive(Default)]
pub struct Batch {
    /// The last event that was read.
    pub last_id: i64,
    /// Whether the window has no event after it that must be sent.
    pub is_last: bool,
    sent: i64,
    last_sent_id: i64,
}

impl Batch {
    /// Notifies of the next events of a window, `limit` at most. The commit sends the notifications.
    pub fn send(start: &Position, window: &Window, limit: i32, content: Notification) -> Batch {
        if content == Notification::Off {
            return Batch { is_last: true, ..Batch::default() };
        }
        let read = |rows: Rows| {
            let mut batch = Batch { is_last: rows.len() < limit as usize, ..Batch::default() };
            for row in 0..rows.len() {
                batch.last_id = rows.i64(row, 1);
                if !window.duty.includes(batch.last_id, rows.i64(row, 2).cast_unsigned()) {
                    continue;
                }
                (batch.sent, batch.last_sent_id) = (batch.sent + 1, batch.last_id);
                if content == Notification::Wakeup {
                    // One notification stands for all events of the window.
                    notify(CHANNEL, "");
                    batch.is_last = true;
                    break;
                }
                notify(CHANNEL, &payload(&event(&rows, row)));
            }
            batch
        };
        check_function();
        READ.with(|plan| plan.run(&arguments(start, window, limit), read))
    }

    /// Reads the ID of the next event of a window, and no more of it.
    pub fn next_id(start: &Position, window: &Window) -> Option<i64> {
        check_function();
        let read = |rows: Rows| (rows.len() > 0).then(|| rows.i64(0, 1));
        READ_ID.with(|plan| plan.run(&arguments(start, window, 1), read))
    }

    /// Adds the batch to the notifier's statistics.
    pub fn add_to(&self, progress: &mut Progress) {
        if self.sent > 0 {
            progress.events += self.sent;
            progress.batches += 1;
            progress.last_event_id = self.last_sent_id;
            progress.notified_at = clock();
        }
    }
}

fn arguments(start: &Position, window: &Window, limit: i32) -> [Option<Datum>; 9] {
    [
        start.snapshot.datum(),
        Datum::from(start.next_transaction_id),
        Datum::from(start.floor_id),
        window.end.snapshot.datum(),
        Datum::from(window.end.next_transaction_id),
        Datum::from(window.end.floor_id),
        Datum::from(window.ceiling_id),
        Datum::from(window.notified_id),
        Datum::from(limit),
    ]
    .map(Some)
}

fn check_function() {
    if member::function(c"events_between", ARGUMENTS).is_none() {
        errors::not_a_member("function workflow.events_between");
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

fn statement(columns: &str) -> Plan {
    Plan::new(
        format!("SELECT {columns} FROM workflow.events_between($1, $2, $3, $4, $5, $6, $7, $8, $9) AS e"),
        ARGUMENTS,
    )
}

thread_local! {
    static READ: Plan = statement(
        "e.id, e.transaction_id, e.entity_type, e.entity_id, e.dag_id, e.dag_run_id, e.task_id, e.old_state, e.new_state, \
         e.version, e.changed_at, e.actor, e.metadata",
    );
    static READ_ID: Plan = statement("e.id");
}

/// Reads the event of a row of the first statement above.
fn event(rows: &Rows, row: usize) -> Event<'_> {
    let uuid = |column| rows.uuid(row, column).unwrap_or(Uuid([0; 16]));
    Event {
        id: rows.i64(row, 1),
        entity_type: rows.text(row, 3).unwrap_or_default(),
        entity_id: uuid(4),
        dag_id: uuid(5),
        dag_run_id: uuid(6),
        task_id: rows.text(row, 7),
        old_state: rows.text(row, 8),
        new_state: rows.text(row, 9),
        version: rows.i64(row, 10),
        changed_at: rows.i64(row, 11),
        actor: rows.text(row, 12).unwrap_or_default(),
        metadata: rows.jsonb(row, 13).unwrap_or_else(Jsonb::empty_object),
        request_id: None,
    }
}
