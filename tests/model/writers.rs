//! Transactions that move entities, and everything that can become of them.

use crate::database::{Database, Event, Transaction};
use crate::rules::Rules;

/// How much the writers still may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Writers {
    pub transactions: u8,
    pub events: u8,
    pub entities: u8,
    pub rollbacks: u8,
    pub savepoints: u8,
    pub prepared: u8,
    /// Commits that wait neither for the disk nor for the standby.
    pub hasty: u8,
}

/// Transactions are named by their places among those in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Begin,
    Event { transaction: usize, entity: u8 },
    Savepoint(usize),
    RollBackToSavepoint(usize),
    Prepare(usize),
    Commit { transaction: usize, waits: bool },
    RollBack(usize),
}

impl Writers {
    pub fn actions(&self, database: &Database, actions: &mut Vec<Write>) {
        if self.transactions > 0 {
            actions.push(Write::Begin);
        }
        for (place, transaction) in database.in_progress.iter().enumerate() {
            // A transaction without an event cannot be told from one that is rolled back.
            if !transaction.events.is_empty() {
                actions.push(Write::Commit { transaction: place, waits: true });
                if self.hasty > 0 {
                    actions.push(Write::Commit { transaction: place, waits: false });
                }
            }
            if self.rollbacks > 0 {
                actions.push(Write::RollBack(place));
            }
            if !transaction.is_prepared {
                self.actions_of(database, place, transaction, actions);
            }
        }
    }

    fn actions_of(&self, database: &Database, place: usize, transaction: &Transaction, actions: &mut Vec<Write>) {
        let has_drawn = transaction.events.is_empty() || transaction.drawn.is_none();
        if self.events > 0 && has_drawn {
            // Entities are alike: the next one is moved only after the one before it.
            let used = database.events().map(|event| event.entity + 1).max().unwrap_or(0);
            for entity in 0..self.entities.min(used + 1) {
                let locks = |other: &Transaction| other.events.iter().any(|event| event.entity == entity);
                if !database.in_progress.iter().any(|other| other.id != transaction.id && locks(other)) {
                    actions.push(Write::Event { transaction: place, entity });
                }
            }
        }
        if transaction.savepoint.is_some() {
            actions.push(Write::RollBackToSavepoint(place));
        } else if self.savepoints > 0 {
            actions.push(Write::Savepoint(place));
        }
        if self.prepared > 0 && !transaction.events.is_empty() {
            actions.push(Write::Prepare(place));
        }
    }

    pub fn act(&mut self, database: &mut Database, write: Write, rules: &Rules) {
        match write {
            Write::Begin => {
                self.transactions -= 1;
                let id = database.assign_transaction_id();
                let drawn = (!rules.id_under_lock).then(|| database.draw_id());
                let (events, savepoint) = (Vec::new(), None);
                database.in_progress.push(Transaction { id, events, savepoint, is_prepared: false, drawn });
            }
            Write::Event { transaction, entity } => {
                self.events -= 1;
                write_event(database, transaction, entity, rules);
            }
            Write::Savepoint(place) => {
                self.savepoints -= 1;
                let subtransaction = database.assign_transaction_id();
                let transaction = &mut database.in_progress[place];
                transaction.savepoint = Some((subtransaction, transaction.events.len()));
            }
            Write::RollBackToSavepoint(place) => database.roll_back_to_savepoint(place),
            Write::Prepare(place) => {
                self.prepared -= 1;
                database.prepare(place);
                database.make_durable();
            }
            Write::Commit { transaction, waits } => {
                database.commit(transaction);
                if waits {
                    database.make_durable();
                } else {
                    self.hasty -= 1;
                }
            }
            Write::RollBack(place) => {
                self.rollbacks -= 1;
                database.roll_back(place);
            }
        }
    }
}

/// Locks the entity and writes its next version.
fn write_event(database: &mut Database, place: usize, entity: u8, rules: &Rules) {
    let id = database.in_progress[place].drawn.unwrap_or_else(|| database.draw_id());
    let version = 1 + database.events().filter(|event| event.entity == entity).count() as u8;
    let transaction = &database.in_progress[place];
    let assigned = transaction.savepoint.map_or(transaction.id, |(subtransaction, _)| subtransaction);
    let transaction_id = if rules.top_level_transaction_id { transaction.id } else { assigned };
    let event = Event { id, transaction_id, entity, version, era: database.era };
    database.write(place, event, assigned);
}
