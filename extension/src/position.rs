//! A position in the event feed, as the notifier stores it.

use crate::errors;
use crate::ffi::sequence::Sequence;
use crate::ffi::shared::Progress;
use crate::ffi::{cluster, snapshot, transaction};

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
    /// Reads the position after all events that are visible now, like `current_place()`, but without SQL of the database.
    /// The role must be able to read the sequence of IDs.
    pub fn current() -> Position {
        let ids = Sequence::find(c"state_history_id_seq")
            .unwrap_or_else(|| errors::not_a_member("sequence workflow.state_history_id_seq"));
        // In this order, each number current: see the head of sql/09_position.sql.
        let floor_id = ids.last_value();
        let snapshot = with_transaction(&snapshot::latest(), transaction::assigned_id());
        let next_transaction_id = cluster::next_transaction_id().cast_signed();
        Position { snapshot, next_transaction_id, floor_id, ceiling_id: ids.last_value() }
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

/// Adds the current transaction to a snapshot as in progress, because it may still write events.
fn with_transaction(snapshot: &str, own: Option<u64>) -> String {
    let mut parts = snapshot.split(':');
    let mut number = || parts.next().and_then(|number| number.parse().ok()).unwrap_or(0_u64);
    let (xmin, xmax) = (number(), number());
    let Some(own) = own.filter(|own| *own < xmax) else { return snapshot.to_owned() };
    let mut in_progress: Vec<u64> =
        parts.next().unwrap_or_default().split(',').filter_map(|id| id.parse().ok()).collect();
    in_progress.push(own);
    in_progress.sort_unstable();
    in_progress.dedup();
    let in_progress: Vec<String> = in_progress.iter().map(u64::to_string).collect();
    format!("{}:{xmax}:{}", own.min(xmin), in_progress.join(","))
}
