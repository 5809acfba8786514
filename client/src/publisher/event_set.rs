use std::hash::{BuildHasher, RandomState};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use crate::event::Event;

/// A set of events that a destination holds.
///
/// Two events are the same if their id, entity, version and time are: a restored or promoted database reuses ids. The
/// set takes 17 bytes for each, so even a million events fit into little memory.
///
/// ```
/// use pg_workflow_client::event::Event;
/// use pg_workflow_client::publisher::EventSet;
///
/// fn held(events: &[Event]) -> EventSet {
///     events.iter().collect()
/// }
/// assert!(held(&[]).is_empty());
/// ```
#[derive(Clone, Debug, Default)]
pub struct EventSet {
    /// Each event's id and the hash of its key, in order after [`sort`](EventSet::sort).
    events: Vec<(i64, u64)>,
    /// For each of these, whether it was found in the feed.
    found: Vec<bool>,
    missing: usize,
    hasher: RandomState,
}

/// What identifies an event.
#[derive(Debug, Hash, Deserialize)]
pub(crate) struct Key {
    pub id: i64,
    entity_id: Uuid,
    version: i64,
    changed_at: DateTime<Utc>,
}

impl From<&Event> for Key {
    fn from(event: &Event) -> Key {
        Key { id: event.id, entity_id: event.entity_id, version: event.version, changed_at: event.changed_at }
    }
}

/// Whether a destination holds an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Same,
    /// It holds only another event with this id.
    Other,
    No,
}

impl EventSet {
    /// Adds an event.
    pub fn insert(&mut self, event: &Event) {
        self.insert_key(&Key::from(event));
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn insert_key(&mut self, key: &Key) {
        self.events.push((key.id, self.hasher.hash_one(key)));
    }

    /// Prepares the set for [`find`](EventSet::find), after the last event was added.
    pub(crate) fn sort(&mut self) {
        self.events.sort_unstable();
        self.events.dedup();
        self.found = vec![false; self.events.len()];
        self.missing = self.events.len();
    }

    /// Looks for an event of the feed, and notes that the feed has it.
    pub(crate) fn find(&mut self, event: &Event) -> Held {
        if self.events.is_empty() {
            return Held::No;
        }
        let hash = self.hasher.hash_one(Key::from(event));
        match self.events.binary_search(&(event.id, hash)) {
            Ok(index) => {
                self.missing -= usize::from(!std::mem::replace(&mut self.found[index], true));
                Held::Same
            }
            // Others with this id are its neighbors.
            Err(index) => {
                let has_id = |index: usize| self.events.get(index).is_some_and(|(id, _)| *id == event.id);
                if has_id(index) || index.checked_sub(1).is_some_and(has_id) { Held::Other } else { Held::No }
            }
        }
    }

    /// Returns the number of events that the feed has not had yet.
    pub(crate) fn missing(&self) -> usize {
        self.missing
    }

    /// Returns the lowest id of those.
    pub(crate) fn first_missing(&self) -> Option<i64> {
        let index = self.found.iter().position(|found| !found)?;
        self.events.get(index).map(|(id, _)| *id)
    }

    pub(crate) fn clear(&mut self) {
        *self = EventSet::default();
    }
}

impl<'a> FromIterator<&'a Event> for EventSet {
    fn from_iter<I: IntoIterator<Item = &'a Event>>(events: I) -> EventSet {
        let mut set = EventSet::default();
        events.into_iter().for_each(|event| set.insert(event));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: i64, version: i64) -> Event {
        let text = format!(
            r#"{{"id":{id},"entity_type":"dag_run","entity_id":"01890a5d-ac96-774b-bcce-b302099a8057",
            "dag_id":"01890a5d-ac96-774b-bcce-b302099a8058","dag_run_id":"01890a5d-ac96-774b-bcce-b302099a8057",
            "task_id":null,"old_state":"queued","new_state":"running","version":{version},
            "changed_at":"2026-11-23T22:10:25.123456Z","actor":"alice","metadata":{{}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn set_tells_events_of_one_id_apart() {
        let mut set: EventSet = [event(4, 2), event(3, 1), event(4, 3), event(3, 1)].iter().collect();
        set.sort();
        assert_eq!((set.len(), set.missing(), set.first_missing()), (3, 3, Some(3)));
        assert_eq!(
            [event(3, 1), event(4, 3), event(4, 4), event(5, 1)].map(|event| set.find(&event)),
            [Held::Same, Held::Same, Held::Other, Held::No]
        );
        assert_eq!((set.find(&event(3, 1)), set.missing(), set.first_missing()), (Held::Same, 1, Some(4)));
    }
}
