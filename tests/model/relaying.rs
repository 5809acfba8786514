//! What the relays of the model do: leases, checkpoints, and writes to the destination.

use crate::database::Event;
use crate::position::{Opening, Position};
use crate::relay::{Relay, State, end};
use crate::rules::Rules;

impl State {
    /// A relay that has lost a connection compares.
    pub fn end_connections(&mut self) {
        for relay in &mut self.relays {
            relay.expected = None;
        }
    }

    fn holds_lease(&self, relay: usize, rules: &Rules) -> bool {
        !rules.lease_number || self.relays[relay].lease == self.database.consumer.lease_number
    }

    /// A relay whose call is refused forgets everything and must acquire the lease again.
    fn refuse(&mut self, relay: usize) {
        self.was_refused = true;
        self.relays[relay] = Relay::default();
    }

    /// `lease_consumer()`: at any time, because the other relay can hang for longer than its lease.
    pub fn lease(&mut self, relay: usize, rules: &Rules) {
        self.left.leases -= 1;
        let mut consumer = self.database.consumer.clone();
        consumer.lease_number += 1;
        self.relays[relay] = Relay { lease: consumer.lease_number, ..Relay::default() };
        self.database.store(consumer);
        if rules.durable_lease {
            self.database.make_durable();
        }
    }

    /// `rewind_consumer()`; without a checkpoint the consumer begins again.
    pub fn compare(&mut self, relay: usize, rules: &Rules) {
        if !self.holds_lease(relay, rules) {
            return self.refuse(relay);
        }
        let mut consumer = self.database.consumer.clone();
        let is_beyond = |entry: &usize| *entry > self.destination.len();
        let last = consumer.checkpoints.iter().filter(|(entry, _)| !is_beyond(entry)).max_by_key(|(entry, _)| *entry);
        let first = || (0, Position::first());
        let (entry, position) = last.cloned().unwrap_or_else(first);
        consumer.position = position;
        if rules.rewind_deletes {
            consumer.checkpoints.retain(|(other, _)| *other <= entry);
        }
        self.database.store(consumer);
        if rules.durable_rewind {
            self.database.make_durable();
        }
        let lease = self.relays[relay].lease;
        let (expected, read_back) = (Some(end(&self.destination)), self.destination[entry..].to_vec());
        self.relays[relay] = Relay { lease, expected, read_back, ..Relay::default() };
    }

    /// `read_events()`: all numbers at once, and on the disk.
    pub fn read(&mut self, relay: usize, max: usize, rules: &Rules) {
        if !self.holds_lease(relay, rules) {
            return self.refuse(relay);
        }
        let mut consumer = self.database.consumer.clone();
        if consumer.position.has_read_window() {
            consumer.position = consumer.position.close_window();
        }
        loop {
            let was_open = consumer.position.window.is_some();
            if !was_open {
                if self.left.windows == 0 {
                    break;
                }
                self.left.windows -= 1;
                let opening = Opening::start(&self.database, None, max).take_all(&self.database, rules);
                consumer.position = consumer.position.open_window(opening.place(), rules);
            }
            let events = consumer.position.events_in_window(&self.database.history, max, rules);
            if !events.is_empty() {
                self.database.make_events_durable();
                consumer.position.note_returned(&events, max, rules);
                self.relays[relay].batch = events;
                break;
            }
            if !was_open {
                return;
            }
            consumer.position = consumer.position.close_window();
        }
        self.database.store(consumer);
    }

    /// Appends the events that are not there. The destination knows nothing of leases.
    pub fn publish(&mut self, relay: usize, rules: &Rules) {
        let is_late = self.relays[relay].lease != self.database.consumer.lease_number;
        let relay = &mut self.relays[relay];
        if rules.expected_entry && relay.expected != Some(end(&self.destination)) {
            relay.expected = None;
            return;
        }
        self.was_late |= is_late;
        let (met, new): (Vec<Event>, Vec<Event>) =
            relay.batch.iter().partition(|event| relay.read_back.contains(event));
        relay.read_back.retain(|event| !met.contains(event));
        self.destination.extend(new);
        relay.expected = Some(end(&self.destination));
        relay.is_published = true;
    }

    pub fn acknowledge(&mut self, relay: usize, rules: &Rules) {
        if !self.holds_lease(relay, rules) {
            return self.refuse(relay);
        }
        let last = self.relays[relay].batch.last().copied().expect("a batch");
        let mut consumer = self.database.consumer.clone();
        consumer.position.acknowledge(&last, rules);
        self.database.store(consumer);
        self.relays[relay].batch.clear();
        self.relays[relay].is_published = false;
    }

    pub fn save_checkpoint(&mut self, relay: usize, rules: &Rules) {
        if !self.holds_lease(relay, rules) {
            return self.refuse(relay);
        }
        self.left.checkpoints -= 1;
        let (entry, _) = self.relays[relay].expected.expect("an end");
        let mut consumer = self.database.consumer.clone();
        consumer.checkpoints.retain(|(other, _)| *other != entry);
        consumer.checkpoints.push((entry, consumer.position.clone()));
        consumer.checkpoints.sort_unstable();
        self.database.store(consumer);
    }
}
