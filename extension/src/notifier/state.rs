//! The events that the notifier has sent, and those that it has not. They are in shared memory, which outlives the process.

use crate::ffi::area;
use crate::ffi::shared::Progress;
use crate::ffi::snapshot::Snapshot;
use crate::position::Position;

/// The state of a database's notifications, if it has a position at all.
#[derive(Clone, Default)]
pub struct State {
    /// The notifications of all events before it have been sent.
    pub position: Position,
    /// The window that is being sent. It begins at the position.
    pub window: Option<Window>,
    /// Which events after the window are the notifier's.
    pub duty: Duty,
}

/// The events between the notifier's position and a later one.
#[derive(Clone, Default)]
pub struct Window {
    pub end: Position,
    /// No event of the window has a higher ID.
    pub ceiling_id: i64,
    /// The last event that has been sent or skipped.
    pub notified_id: i64,
    /// The number of owed commits before the window was opened: it contains their events.
    pub commits: u64,
    /// Which of its events are the notifier's.
    pub duty: Duty,
}

/// Which events are the notifier's. The others' transactions send their own notifications.
///
/// Each transaction decides at its first event, under a lock that a change of the rule takes exclusively. So the
/// transactions that decided before a change are known: they are in progress and registered, or have drawn all IDs.
#[derive(Clone)]
pub struct Duty {
    /// Events up to this ID are: they were drawn before the duty was handed back to the transactions.
    up_to_id: i64,
    /// The events of these transactions are, whatever their IDs: they were in progress when it was handed back.
    owed: Vec<u64>,
    /// The events of these transactions are not: they were in progress when the notifier took over.
    own: Vec<u64>,
    /// No transaction from this ID on has events for the notifier.
    before: u64,
}

impl Default for Duty {
    fn default() -> Duty {
        Duty::all_but(Vec::new())
    }
}

impl Duty {
    /// All events, except those of transactions that send their own notifications.
    pub fn all_but(own: Vec<u64>) -> Duty {
        Duty { up_to_id: i64::MAX, owed: Vec::new(), own, before: u64::MAX }
    }

    /// Ends the duty with these transactions, the last ID, and the first transaction ID that is not assigned yet.
    pub fn end(&mut self, owed: Vec<u64>, last_id: i64, before: u64) {
        (self.up_to_id, self.owed, self.before) = (last_id, owed, before);
    }

    /// Whether the notification of an event is the notifier's.
    pub fn includes(&self, id: i64, transaction_id: u64) -> bool {
        self.own.binary_search(&transaction_id).is_err()
            && (id <= self.up_to_id || self.owed.binary_search(&transaction_id).is_ok())
    }

    /// Whether every event of the notifier is before this position.
    pub fn is_done_at(&self, position: &Position) -> bool {
        position.snapshot.xmin() >= self.before
    }
}

impl State {
    /// Reads the state from shared memory.
    pub fn load(locked: &[Progress], entry: usize) -> State {
        let words = area::read(locked, entry);
        let mut words = Words(words.iter());
        State {
            position: words.position(),
            duty: words.duty(),
            window: (words.next() != 0).then(|| Window {
                end: words.position(),
                ceiling_id: words.signed(),
                notified_id: words.signed(),
                commits: words.next(),
                duty: words.duty(),
            }),
        }
    }

    /// Writes the state to shared memory.
    pub fn store(&self, locked: &mut [Progress], entry: usize) {
        let mut words = Vec::new();
        add_position(&mut words, &self.position);
        add_duty(&mut words, &self.duty);
        words.push(self.window.is_some().into());
        if let Some(window) = &self.window {
            add_position(&mut words, &window.end);
            words.extend([window.ceiling_id as u64, window.notified_id as u64, window.commits]);
            add_duty(&mut words, &window.duty);
        }
        area::write(locked, entry, &words);
    }
}

fn add_position(words: &mut Vec<u64>, position: &Position) {
    words.extend([position.next_transaction_id, position.floor_id as u64, position.snapshot.xmax]);
    add_list(words, &position.snapshot.in_progress);
}

fn add_duty(words: &mut Vec<u64>, duty: &Duty) {
    words.extend([duty.up_to_id as u64, duty.before]);
    add_list(words, &duty.owed);
    add_list(words, &duty.own);
}

fn add_list(words: &mut Vec<u64>, list: &[u64]) {
    words.push(list.len() as u64);
    words.extend(list);
}

/// Reads words in the order in which they were added.
struct Words<'a>(std::slice::Iter<'a, u64>);

impl Words<'_> {
    fn next(&mut self) -> u64 {
        self.0.next().copied().unwrap_or(0)
    }

    fn signed(&mut self) -> i64 {
        self.next() as i64
    }

    fn list(&mut self) -> Vec<u64> {
        let count = self.next() as usize;
        self.0.by_ref().take(count).copied().collect()
    }

    fn position(&mut self) -> Position {
        let (next_transaction_id, floor_id, xmax) = (self.next(), self.signed(), self.next());
        Position { snapshot: Snapshot { xmax, in_progress: self.list() }, next_transaction_id, floor_id }
    }

    fn duty(&mut self) -> Duty {
        let (up_to_id, before) = (self.signed(), self.next());
        Duty { up_to_id, before, owed: self.list(), own: self.list() }
    }
}
