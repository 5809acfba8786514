//! The rules of the design, each of which a test leaves out.

/// One of the numbers of a position, read at a time of its own: see `workflow.current_place()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Floor,
    Snapshot,
    NextTransactionId,
    Ceiling,
}

#[derive(Clone, Debug)]
pub struct Rules {
    /// The order in which a reader takes the numbers of a position.
    pub reads: [Number; 4],
    /// Late events are also those of transactions beyond the snapshot and before next_transaction_id.
    pub next_transaction_id: bool,
    /// The reading transaction counts as in progress, because it may still write.
    pub reader_is_in_progress: bool,
    /// An event has the ID of its top-level transaction, which a snapshot lists, not of its subtransaction.
    pub top_level_transaction_id: bool,
    /// An event's id is drawn while the entity is locked.
    pub id_under_lock: bool,
    /// A window's events are in the order of their ids, not of their transactions.
    pub order_of_ids: bool,
    /// The end of a window stays until the window has been read, in however many parts.
    pub fixed_window: bool,
    /// A window has all that has committed, not only the events before the oldest transaction in progress.
    pub window_passes_open_transactions: bool,
    /// An acknowledgment goes no further than the events returned in the open window.
    pub returned_id: bool,
    /// returned_id belongs to the open window and is forgotten with it.
    pub returned_id_of_window: bool,
    /// A read ends the window with its last event only if it asked for more.
    pub whole_window: bool,
    /// An acknowledgment of an earlier window's event changes nothing.
    pub earlier_windows: bool,
    /// Events are returned only when they are on disk, and on the synchronous standby.
    pub durable_events: bool,
    /// A position is returned only when all the log before it is on disk.
    pub durable_position: bool,
    /// A position has its place in the log, and another timeline must have left its own one after that place.
    pub position_lsn: bool,
    /// That place is taken after the snapshot.
    pub lsn_after_snapshot: bool,
    /// The place is the one at which the window was opened, not the one at which a part of it was read.
    pub lsn_of_window: bool,
    /// A position has the last event that its reader has seen, which must exist.
    pub mark: bool,
    /// The snapshot of a position tells nothing about events with ids above the mark.
    pub bounded_by_mark: bool,
    /// A relay reads and acknowledges only with the number of the current lease.
    pub lease_number: bool,
    /// A crash does not undo a lease.
    pub durable_lease: bool,
    /// A destination appends only after the entry that the relay expects there.
    pub expected_entry: bool,
    /// A connection ends with its Redis: no late write reaches a destination that has lost entries meanwhile.
    pub connection_ends: bool,
    /// A checkpoint is saved only when all events that were read back from the destination have been met in the feed.
    pub checkpoint_when_met: bool,
    /// Going back to a checkpoint deletes the later ones.
    pub rewind_deletes: bool,
    /// A crash does not undo that.
    pub durable_rewind: bool,
}

impl Rules {
    pub const DESIGN: Rules = Rules {
        reads: [Number::Floor, Number::Snapshot, Number::NextTransactionId, Number::Ceiling],
        next_transaction_id: true,
        reader_is_in_progress: true,
        top_level_transaction_id: true,
        id_under_lock: true,
        order_of_ids: true,
        fixed_window: true,
        window_passes_open_transactions: true,
        returned_id: true,
        returned_id_of_window: true,
        whole_window: true,
        earlier_windows: true,
        durable_events: true,
        durable_position: true,
        position_lsn: true,
        lsn_after_snapshot: true,
        lsn_of_window: true,
        mark: true,
        bounded_by_mark: true,
        lease_number: true,
        durable_lease: true,
        expected_entry: true,
        connection_ends: true,
        checkpoint_when_met: true,
        rewind_deletes: true,
        durable_rewind: true,
    };
}
