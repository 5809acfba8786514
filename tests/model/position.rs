//! Positions in the feed, as in `sql/09_position.sql`, `sql/12_consumers.sql` and `sql/13_followers.sql`.

use crate::database::{Database, Event, Id, Snapshot, TransactionId};
use crate::rules::{Number, Rules};

/// The end of a window: `workflow.current_place()`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub snapshot: Snapshot,
    pub next_transaction_id: TransactionId,
    pub floor_id: Id,
    pub ceiling_id: Id,
}

/// `workflow.feed_position`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub snapshot: Option<Snapshot>,
    pub next_transaction_id: TransactionId,
    pub floor_id: Id,
    pub window: Option<Place>,
    pub acked_id: Id,
    /// The highest id returned in the open window.
    pub returned_id: Id,
    /// The snapshots tell nothing about events with ids above it: see `HeldPosition::parse()`.
    pub mark_id: Id,
}

/// A row of `workflow.consumers`, with its relay checkpoints: entries in the destination, and positions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Consumer {
    pub position: Position,
    pub lease_number: u8,
    pub checkpoints: Vec<(usize, Position)>,
}

impl Consumer {
    pub fn new() -> Consumer {
        Consumer { position: Position::first(), lease_number: 0, checkpoints: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Acknowledged,
    AcknowledgedBefore,
    /// 22023
    Refused,
}

impl Position {
    pub fn first() -> Position {
        Position {
            snapshot: None,
            next_transaction_id: 0,
            floor_id: 0,
            window: None,
            acked_id: 0,
            returned_id: 0,
            mark_id: Id::MAX,
        }
    }

    /// All ids drawn after the snapshot are above the mark, too.
    fn floor_id(&self) -> Id {
        if self.mark_id == Id::MAX { self.floor_id } else { self.mark_id }
    }

    pub fn is_acknowledged(&self, id: Id, transaction_id: TransactionId) -> bool {
        let before = match &self.snapshot {
            Some(snapshot) => id <= self.mark_id && snapshot.shows(transaction_id),
            None => id <= self.floor_id,
        };
        let in_window = || self.window.as_ref().is_some_and(|window| window.snapshot.shows(transaction_id));
        before || (id <= self.acked_id && in_window())
    }

    /// Transactions in progress at the snapshot that may have written events up to floor_id.
    fn unfinished_transactions(&self, history: &[Event], rules: &Rules) -> Vec<TransactionId> {
        let Some(snapshot) = &self.snapshot else { return Vec::new() };
        let mut unfinished = snapshot.in_progress.clone();
        if rules.next_transaction_id {
            let beyond = snapshot.xmax..self.next_transaction_id;
            unfinished.extend(history.iter().map(|event| event.transaction_id).filter(|id| beyond.contains(id)));
        }
        unfinished
    }

    pub fn events_in_window(&self, history: &[Event], max: usize, rules: &Rules) -> Vec<Event> {
        let window = self.window.as_ref().expect("an open window");
        let unfinished = self.unfinished_transactions(history, rules);
        let is_shown = |event: &Event| {
            let open = window.snapshot.in_progress.iter().min();
            let waits_for_others =
                !rules.window_passes_open_transactions && open.is_some_and(|oldest| event.transaction_id > *oldest);
            window.snapshot.shows(event.transaction_id) && !waits_for_others
        };
        let is_late = |event: &Event| {
            event.id > self.acked_id && event.id <= self.floor_id() && unfinished.contains(&event.transaction_id)
        };
        let is_in_range = |event: &Event| {
            event.id > self.acked_id.max(self.floor_id())
                && event.id <= window.ceiling_id
                && !self.is_acknowledged(event.id, event.transaction_id)
        };
        let found = history.iter().filter(|event| is_shown(event) && (is_late(event) || is_in_range(event)));
        let mut found: Vec<Event> = found.copied().collect();
        if !rules.order_of_ids {
            found.sort_by_key(|event| (event.transaction_id, event.id));
        }
        found.truncate(max);
        found
    }

    pub fn open_window(&self, window: Place, rules: &Rules) -> Position {
        let returned_id = if rules.returned_id_of_window { 0 } else { self.returned_id };
        Position { window: Some(window), returned_id, ..self.clone() }
    }

    pub fn close_window(&self) -> Position {
        let Place { snapshot, next_transaction_id, floor_id, .. } = self.window.clone().expect("an open window");
        let (snapshot, window) = (Some(snapshot), None);
        Position { snapshot, next_transaction_id, floor_id, window, acked_id: 0, ..*self }
    }

    /// Whether every event of the open window is acknowledged, by the ids alone.
    pub fn has_read_window(&self) -> bool {
        self.window.as_ref().is_some_and(|window| self.acked_id >= window.ceiling_id)
    }

    /// Remembers that a read of at most `max` events returned these, at least one. If the window has no more, it ends there.
    pub fn note_returned(&mut self, events: &[Event], max: usize, rules: &Rules) {
        let last = events.last().expect("an event").id;
        self.returned_id = self.returned_id.max(last);
        if events.len() < max || !rules.whole_window {
            self.window.as_mut().expect("an open window").ceiling_id = last;
        }
    }

    /// `workflow.ack_events()`, for an id that an event in the history has.
    pub fn acknowledge(&mut self, up_to: &Event, rules: &Rules) -> Answer {
        let Some(window) = &self.window else { return Answer::AcknowledgedBefore };
        let is_known = rules.earlier_windows && self.is_acknowledged(up_to.id, up_to.transaction_id);
        if up_to.id <= self.acked_id || is_known {
            return Answer::AcknowledgedBefore;
        }
        let is_beyond_window =
            up_to.id > window.ceiling_id || (self.snapshot.is_some() && !window.snapshot.shows(up_to.transaction_id));
        if is_beyond_window || (rules.returned_id && up_to.id > self.returned_id) {
            return Answer::Refused;
        }
        self.acked_id = up_to.id;
        Answer::Acknowledged
    }
}

/// The numbers of a place while a reader takes them, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Opening {
    /// The transaction ID of the reading session, if it has one.
    own: Option<TransactionId>,
    /// How many events the read returns at most.
    pub max: usize,
    taken: usize,
    floor_id: Id,
    snapshot: Snapshot,
    next_transaction_id: TransactionId,
    ceiling_id: Id,
    /// All that had committed at the snapshot.
    pub due: Vec<Event>,
    /// The place in the log.
    pub lsn: usize,
}

impl Opening {
    pub fn start(database: &Database, own: Option<TransactionId>, max: usize) -> Opening {
        Opening {
            own,
            max,
            taken: 0,
            floor_id: 0,
            snapshot: Snapshot { xmax: 0, in_progress: Vec::new() },
            next_transaction_id: 0,
            ceiling_id: 0,
            due: Vec::new(),
            lsn: database.lsn(),
        }
    }

    /// Takes the next number; true if it was the last.
    pub fn take(&mut self, database: &Database, rules: &Rules) -> bool {
        match rules.reads[self.taken] {
            Number::Floor => self.floor_id = database.last_event_id,
            Number::Snapshot => {
                self.snapshot = others_snapshot(database, self.own, rules);
                self.due.clone_from(&database.history);
            }
            Number::NextTransactionId => self.next_transaction_id = database.next_transaction_id,
            Number::Ceiling => self.ceiling_id = database.last_event_id,
        }
        self.taken += 1;
        if self.taken == 4 && rules.lsn_after_snapshot {
            self.lsn = database.lsn();
        }
        self.taken == 4
    }

    pub fn place(&self) -> Place {
        let Opening { snapshot, next_transaction_id, floor_id, ceiling_id, .. } = self.clone();
        Place { snapshot, next_transaction_id, floor_id, ceiling_id }
    }

    /// Takes the other numbers, without a write in between.
    pub fn take_all(mut self, database: &Database, rules: &Rules) -> Opening {
        while self.taken < 4 {
            self.take(database, rules);
        }
        self
    }
}

fn others_snapshot(database: &Database, own: Option<TransactionId>, rules: &Rules) -> Snapshot {
    let mut snapshot = database.snapshot(own);
    if rules.reader_is_in_progress {
        snapshot.in_progress.extend(own.filter(|own| *own < snapshot.xmax));
        snapshot.in_progress.sort_unstable();
    }
    snapshot
}

/// A position in the hands of a follower: the text that `follow_events()` returns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeldPosition {
    pub position: Position,
    pub timeline: usize,
    pub lsn: usize,
    /// The event with the highest id that the follower has seen.
    pub mark: Option<Event>,
}

impl HeldPosition {
    /// What the database makes of the position; none if it refuses it.
    pub fn parse(&self, database: &Database, rules: &Rules) -> Option<Position> {
        let was_left = database.switch_points.get(self.timeline);
        let is_beyond_switch = rules.position_lsn && was_left.is_some_and(|switch_point| self.lsn > *switch_point);
        let has_mark = self.mark.is_none_or(|mark| database.history.contains(&mark));
        let mut position = self.position.clone();
        if is_beyond_switch || (rules.mark && !has_mark) || position.floor_id > database.last_event_id {
            return None;
        }
        if rules.bounded_by_mark {
            position.mark_id = self.mark.map_or(0, |mark| mark.id);
        }
        Some(position)
    }
}
