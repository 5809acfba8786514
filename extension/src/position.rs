//! A position in the event feed, as the notifier stores it.

use crate::ffi::plan::Plan;
use crate::ffi::shared::Progress;

/// A position in the event feed: all events that its snapshot sees are before it. See `sql/09_position.sql`.
#[derive(Clone)]
pub struct Position {
    pub snapshot: String,
    pub next_transaction_id: i64,
    pub floor_id: i64,
    /// No event before this position has a higher ID.
    pub ceiling_id: i64,
}

impl Position {
    /// Reads the position after all events that are visible now.
    pub fn current() -> Position {
        thread_local! {
            static CURRENT: Plan = Plan::new(
                "SELECT p.snapshot::pg_catalog.text, p.next_transaction_id, p.floor_id, p.ceiling_id \
                 FROM workflow.current_place() AS p"
                    .to_owned(),
                &[],
            );
        }
        CURRENT.with(|plan| {
            plan.run(&[], |rows| Position {
                snapshot: rows.text(0, 1).unwrap_or_default().to_owned(),
                next_transaction_id: rows.i64(0, 2),
                floor_id: rows.i64(0, 3),
                ceiling_id: rows.i64(0, 4),
            })
        })
    }

    /// Reads the notifier's position from shared memory.
    pub fn load(progress: &Progress) -> Position {
        Position {
            snapshot: progress.snapshot.get().to_owned(),
            next_transaction_id: progress.next_transaction_id,
            floor_id: progress.floor_id,
            ceiling_id: 0,
        }
    }

    /// Makes this the notifier's position.
    pub fn store(&self, progress: &mut Progress) {
        progress.next_transaction_id = self.next_transaction_id;
        progress.floor_id = self.floor_id;
        if !progress.snapshot.set(&self.snapshot) {
            // More transactions are in progress than fit in. Treating all from the oldest one on as not seen sends
            // some notifications twice after a restart of the notifier, and loses none.
            let oldest = self.snapshot.split(':').next().unwrap_or_default();
            progress.snapshot.set(&format!("{oldest}:{oldest}:"));
        }
    }
}
