//! What the readers of the model do: `read_events()`, `ack_events()`, `current_position()` and `follow_events()`.

use crate::database::{Event, Id, TransactionId};
use crate::feed::{Reader, Seen, State};
use crate::position::{Answer, HeldPosition, Opening, Position};
use crate::rules::Rules;

impl State {
    /// `read_events()`: from the open window, or up to the place where it opens one.
    pub fn read(&mut self, max: usize, is_slow: bool, rules: &Rules) {
        let mut consumer = self.database.consumer.clone();
        if consumer.position.has_read_window() {
            consumer.position = consumer.position.close_window();
            self.consumer.check_end(&mut self.seen);
            self.database.store(consumer.clone());
        }
        if let Some(window) = &mut consumer.position.window {
            if !rules.fixed_window {
                *window = Opening::start(&self.database, None, max).take_all(&self.database, rules).place();
            }
            let events = consumer.position.events_in_window(&self.database.history, max, rules);
            if !events.is_empty() {
                self.consumer.receive(&events, &consumer.position, &self.database.history, &mut self.seen);
                consumer.position.note_returned(&events, max, rules);
                self.database.store(consumer);
                return;
            }
            self.consumer.check_end(&mut self.seen);
            consumer.position = consumer.position.close_window();
            self.database.store(consumer);
        }
        if self.left.windows == 0 {
            return;
        }
        self.left.windows -= 1;
        let opening = Opening::start(&self.database, None, max);
        if is_slow {
            self.consumer.opening = Some(opening);
        } else {
            self.return_from_new_window(opening.take_all(&self.database, rules), rules);
        }
    }

    pub fn take_number(&mut self, rules: &Rules) {
        let mut opening = self.consumer.opening.take().expect("an opening");
        if opening.take(&self.database, rules) {
            self.return_from_new_window(opening, rules);
        } else {
            self.consumer.opening = Some(opening);
        }
    }

    fn return_from_new_window(&mut self, opening: Opening, rules: &Rules) {
        let mut consumer = self.database.consumer.clone();
        let max = opening.max;
        consumer.position = consumer.position.open_window(opening.place(), rules);
        let events = consumer.position.events_in_window(&self.database.history, max, rules);
        self.consumer.due = opening.due;
        if events.is_empty() {
            self.consumer.check_end(&mut self.seen);
            return;
        }
        if rules.durable_events {
            self.database.make_events_durable();
        }
        self.consumer.receive(&events, &consumer.position, &self.database.history, &mut self.seen);
        consumer.position.note_returned(&events, max, rules);
        self.database.store(consumer);
    }

    /// `ack_events()`
    pub fn acknowledge(&mut self, id: Id, rules: &Rules) {
        let event = *self.database.history.iter().find(|event| event.id == id).expect("an event");
        let mut consumer = self.database.consumer.clone();
        let answer = consumer.position.acknowledge(&event, rules);
        self.seen.refused_acknowledgment |= answer == Answer::Refused;
        self.database.store(consumer);
    }

    /// `current_position()` at first, then `follow_events()`.
    pub fn follow(&mut self, max: usize, own: Option<TransactionId>, is_slow: bool, rules: &Rules) {
        if let Some(held) = &self.held {
            let Some(position) = held.parse(&self.database, rules) else {
                self.held = None;
                self.seen.refused_position = true;
                return;
            };
            self.seen.other_timeline |= held.timeline < self.database.timeline();
            if position.window.is_some() {
                let events = position.events_in_window(&self.database.history, max, rules);
                if !events.is_empty() {
                    let lsn = if rules.lsn_of_window { held.lsn } else { self.database.lsn() };
                    self.hold_after(position, &events, lsn, rules);
                    return;
                }
                self.follower.check_end(&mut self.seen);
            }
        }
        if self.left.follower_windows == 0 {
            return;
        }
        self.left.follower_windows -= 1;
        let opening = Opening::start(&self.database, own, max);
        if is_slow && own.is_none() {
            self.follower.opening = Some(opening);
        } else {
            self.follow_to(opening.take_all(&self.database, rules), rules);
        }
    }

    pub fn take_followers_number(&mut self, rules: &Rules) {
        let mut opening = self.follower.opening.take().expect("an opening");
        if opening.take(&self.database, rules) {
            self.follow_to(opening, rules);
        } else {
            self.follower.opening = Some(opening);
        }
    }

    fn follow_to(&mut self, opening: Opening, rules: &Rules) {
        let (place, lsn) = (opening.place(), opening.lsn);
        let Some(held) = &self.held else {
            if rules.durable_position {
                self.database.make_durable();
            }
            // A reader who starts now has seen all that had committed.
            self.follower.returned.extend(&opening.due);
            let position = Position::first().open_window(place, rules).close_window();
            let mark = self.follower.returned.iter().next_back().copied();
            self.held = Some(HeldPosition { position, timeline: self.database.timeline(), lsn, mark });
            return;
        };
        // No server fails between the two calls of `parse()`: that ends the session.
        let Some(mut position) = held.parse(&self.database, rules) else { return };
        if position.window.is_some() {
            position = position.close_window();
        }
        position = position.open_window(place, rules);
        let events = position.events_in_window(&self.database.history, opening.max, rules);
        self.follower.due = opening.due;
        if events.is_empty() {
            self.follower.check_end(&mut self.seen);
            return;
        }
        if rules.durable_events {
            self.database.make_durable();
        }
        self.hold_after(position, &events, lsn, rules);
    }

    /// The follower receives events, and with the last one the position after it.
    fn hold_after(&mut self, mut position: Position, events: &[Event], lsn: usize, rules: &Rules) {
        self.follower.receive(events, &position, &self.database.history, &mut self.seen);
        position.acked_id = events.last().map_or(0, |event| event.id);
        if position.events_in_window(&self.database.history, 1, rules).is_empty() {
            position = position.close_window();
            self.follower.check_end(&mut self.seen);
        }
        let last_mark = self.held.as_ref().and_then(|held| held.mark);
        let mark = events.iter().copied().chain(last_mark).max_by_key(|event| event.id);
        position.mark_id = Id::MAX;
        self.held = Some(HeldPosition { position, timeline: self.database.timeline(), lsn, mark });
    }

    /// Whether all that was returned is in the history.
    pub fn keeps_returned(&self) -> bool {
        let mut returned = self.consumer.returned.iter().chain(&self.follower.returned);
        returned.all(|event| self.database.history.contains(event))
    }

    /// Those of a server that ends: readers look again.
    pub fn end_sessions(&mut self) {
        for reader in [&mut self.consumer, &mut self.follower] {
            reader.opening = None;
            reader.due.clear();
        }
    }
}

impl Reader {
    fn receive(&mut self, events: &[Event], position: &Position, history: &[Event], seen: &mut Seen) {
        for event in events {
            // Not one that a promotion has undone.
            let is_later = |other: &Event| {
                other.entity == event.entity && other.version > event.version && history.contains(other)
            };
            seen.disorder |= !self.returned.contains(event) && self.returned.iter().any(is_later);
            seen.late_event |= position.snapshot.is_some() && event.id <= position.floor_id;
            self.returned.insert(*event);
        }
    }

    /// At the end of a window, all has been returned that had committed when it was opened.
    fn check_end(&self, seen: &mut Seen) {
        seen.stall |= !self.due.iter().all(|event| self.returned.contains(event));
    }
}
