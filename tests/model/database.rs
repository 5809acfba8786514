//! What the feed needs of PostgreSQL: transaction IDs, snapshots, a sequence, the write-ahead log, and its loss.

use crate::position::Consumer;

pub type Id = u8;
pub type TransactionId = u8;

/// A row of `state_history`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Event {
    pub id: Id,
    pub transaction_id: TransactionId,
    pub entity: u8,
    pub version: u8,
    /// How often the database had gone back: two events that differ only in this have different `changed_at`.
    pub era: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Snapshot {
    /// One more than the last transaction ID that has ended.
    pub xmax: TransactionId,
    /// Those in progress below it.
    pub in_progress: Vec<TransactionId>,
}

impl Snapshot {
    /// `pg_visible_in_snapshot()`
    pub fn shows(&self, transaction_id: TransactionId) -> bool {
        transaction_id < self.xmax && !self.in_progress.contains(&transaction_id)
    }
}

/// A transaction in progress.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transaction {
    pub id: TransactionId,
    pub events: Vec<Event>,
    /// Its subtransaction, and how many events it had before it.
    pub savepoint: Option<(TransactionId, usize)>,
    pub is_prepared: bool,
    /// Without the rule `id_under_lock`: the id that it will write.
    pub drawn: Option<Id>,
}

/// A record of the write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Record {
    /// From here on neither number is assigned again.
    Wrote {
        transaction_id: TransactionId,
        id: Id,
    },
    Prepared(Transaction),
    Committed {
        transaction_id: TransactionId,
        events: Vec<Event>,
    },
    RolledBack {
        transaction_id: TransactionId,
    },
    Consumer(Consumer),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    /// Committed events, in the order of their ids.
    pub history: Vec<Event>,
    pub in_progress: Vec<Transaction>,
    pub next_transaction_id: TransactionId,
    last_ended: TransactionId,
    pub last_event_id: Id,
    pub consumer: Consumer,
    log: Vec<Record>,
    /// A crash keeps at least so much of the log.
    durable: usize,
    /// A standby has at least so much of the log.
    on_standby: usize,
    has_synchronous_standby: bool,
    /// Where each earlier timeline was left. The number of them is the current timeline.
    pub switch_points: Vec<usize>,
    pub era: u8,
}

impl Database {
    pub fn new(has_synchronous_standby: bool) -> Database {
        Database {
            history: Vec::new(),
            in_progress: Vec::new(),
            next_transaction_id: 1,
            last_ended: 0,
            last_event_id: 0,
            consumer: Consumer::new(),
            log: Vec::new(),
            durable: 0,
            on_standby: 0,
            has_synchronous_standby,
            switch_points: Vec::new(),
            era: 0,
        }
    }

    /// `pg_current_snapshot()` of a session whose transaction has this ID.
    pub fn snapshot(&self, own: Option<TransactionId>) -> Snapshot {
        let xmax = self.last_ended + 1;
        let ids = self.in_progress.iter().map(|transaction| transaction.id);
        Snapshot { xmax, in_progress: ids.filter(|id| *id < xmax && Some(*id) != own).collect() }
    }

    /// The events of transactions that have not been rolled back.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.history.iter().chain(self.in_progress.iter().flat_map(|transaction| &transaction.events))
    }

    pub fn assign_transaction_id(&mut self) -> TransactionId {
        self.next_transaction_id += 1;
        self.next_transaction_id - 1
    }

    pub fn draw_id(&mut self) -> Id {
        self.last_event_id += 1;
        self.last_event_id
    }

    /// Writes an event into the history, and into the log.
    pub fn write(&mut self, transaction: usize, event: Event, assigned: TransactionId) {
        self.in_progress[transaction].events.push(event);
        self.log.push(Record::Wrote { transaction_id: assigned, id: event.id });
    }

    pub fn roll_back_to_savepoint(&mut self, transaction: usize) {
        let transaction = &mut self.in_progress[transaction];
        let (subtransaction, events) = transaction.savepoint.take().expect("a savepoint");
        transaction.events.truncate(events);
        self.last_ended = self.last_ended.max(subtransaction);
    }

    pub fn prepare(&mut self, transaction: usize) {
        self.in_progress[transaction].is_prepared = true;
        self.log.push(Record::Prepared(self.in_progress[transaction].clone()));
    }

    pub fn commit(&mut self, transaction: usize) {
        let Transaction { id, events, savepoint, .. } = self.in_progress.remove(transaction);
        self.history.extend(&events);
        self.history.sort_unstable();
        self.log.push(Record::Committed { transaction_id: id, events });
        self.last_ended = self.last_ended.max(savepoint.map_or(id, |(subtransaction, _)| subtransaction));
    }

    pub fn roll_back(&mut self, transaction: usize) {
        let Transaction { id, savepoint, .. } = self.in_progress.remove(transaction);
        self.log.push(Record::RolledBack { transaction_id: id });
        self.last_ended = self.last_ended.max(savepoint.map_or(id, |(subtransaction, _)| subtransaction));
    }

    pub fn store(&mut self, consumer: Consumer) {
        if self.consumer != consumer {
            self.log.push(Record::Consumer(consumer.clone()));
            self.consumer = consumer;
        }
    }

    /// The place in the log up to which all has been inserted.
    pub fn lsn(&self) -> usize {
        self.log.len()
    }

    /// `workflow.make_durable()`: waits for the disk, and for the synchronous standby.
    pub fn make_durable(&mut self) {
        self.durable = self.log.len();
        if self.has_synchronous_standby {
            self.on_standby = self.log.len();
        }
    }

    /// What `read_events()` waits for: that all visible events are durable. Positions may not be.
    pub fn make_events_durable(&mut self) {
        let is_commit = |record: &Record| matches!(record, Record::Committed { .. });
        let last = self.log.iter().rposition(is_commit).map_or(0, |place| place + 1);
        self.durable = self.durable.max(last);
        if self.has_synchronous_standby {
            self.on_standby = self.on_standby.max(last);
        }
    }

    pub fn timeline(&self) -> usize {
        self.switch_points.len()
    }

    /// What a crash can keep of the log.
    pub fn kept_by_crash(&self) -> impl Iterator<Item = usize> + use<> {
        self.durable..=self.log.len()
    }

    /// What a standby can have of the log.
    pub fn kept_by_promotion(&self) -> impl Iterator<Item = usize> + use<> {
        self.on_standby..=self.log.len()
    }

    /// Continues from a part of the log: after a crash, or in a copy of the files that was made at that time.
    pub fn recover(&mut self, kept: usize) {
        let mut recovered = Database::new(self.has_synchronous_standby);
        for record in &self.log[..kept] {
            recovered.replay(record);
        }
        recovered.history.sort_unstable();
        recovered.last_ended = recovered.next_transaction_id - 1;
        recovered.log = self.log[..kept].to_vec();
        (recovered.durable, recovered.on_standby) = (kept, self.on_standby.min(kept));
        (recovered.switch_points, recovered.era) = (self.switch_points.clone(), self.era + 1);
        *self = recovered;
    }

    /// A standby that has this part of the log becomes the primary.
    pub fn promote(&mut self, kept: usize) {
        self.recover(kept);
        self.switch_points.push(kept);
    }

    fn replay(&mut self, record: &Record) {
        let assigned = match record {
            Record::Wrote { transaction_id, id } => {
                self.last_event_id = self.last_event_id.max(*id);
                *transaction_id
            }
            Record::Prepared(transaction) => {
                self.in_progress.push(transaction.clone());
                transaction.id
            }
            Record::Committed { transaction_id, events } => {
                self.in_progress.retain(|transaction| transaction.id != *transaction_id);
                self.history.extend(events);
                *transaction_id
            }
            Record::RolledBack { transaction_id } => {
                self.in_progress.retain(|transaction| transaction.id != *transaction_id);
                *transaction_id
            }
            Record::Consumer(consumer) => {
                self.consumer = consumer.clone();
                0
            }
        };
        self.next_transaction_id = self.next_transaction_id.max(assigned + 1);
    }

    /// Forgets the log if nothing can go back any more: else equal states would differ in it.
    pub fn forget_log(&mut self) {
        self.log.clear();
        (self.durable, self.on_standby) = (0, 0);
    }
}
