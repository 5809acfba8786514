//! A position in the event feed, as the notifier stores it.

use crate::errors;
use crate::ffi::cluster;
use crate::ffi::sequence::Sequence;
use crate::ffi::snapshot::Snapshot;

/// A position in the event feed: all events that its snapshot sees are before it. See `sql/09_position.sql`.
#[derive(Clone, Default)]
pub struct Position {
    pub snapshot: Snapshot,
    pub next_transaction_id: u64,
    pub floor_id: i64,
}

impl Position {
    /// Takes the position after all events that are visible now, like `current_place()`, but without SQL of the database.
    /// `floor_id` was the last ID before. Reads no table, so that a lock can be held.
    pub fn above(floor_id: i64) -> Position {
        // In this order, each number current: see the head of sql/09_position.sql.
        let snapshot = Snapshot::latest();
        Position { snapshot, next_transaction_id: cluster::next_transaction_id(), floor_id }
    }
}

/// Returns the last ID that any transaction has drawn. The role must be able to read the sequence.
pub fn last_id() -> i64 {
    let ids = Sequence::find(c"state_history_id_seq")
        .unwrap_or_else(|| errors::not_a_member("sequence workflow.state_history_id_seq"));
    ids.last_value()
}
