//! The last delivered event of each entity.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::event::Event;

/// At least this many entities are remembered, at most twice as many.
const REMEMBERED: usize = 100_000;

/// The last version of an entity, and the latest time of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub version: i64,
    pub time: DateTime<Utc>,
}

impl Known {
    /// Returns whether an event has been delivered. A restored database reaches a version again, later.
    pub fn includes(&self, event: &Event) -> bool {
        event.version <= self.version && event.changed_at <= self.time
    }
}

/// Bounded: two maps, of which the older is forgotten when the newer is full.
#[derive(Default)]
pub struct Versions {
    newer: HashMap<Uuid, Known>,
    older: HashMap<Uuid, Known>,
}

impl Versions {
    pub fn of(&self, entity: Uuid) -> Option<Known> {
        self.newer.get(&entity).or_else(|| self.older.get(&entity)).copied()
    }

    pub fn note(&mut self, event: &Event) {
        let time = self.of(event.entity_id).map_or(event.changed_at, |known| known.time.max(event.changed_at));
        self.insert(event.entity_id, Known { version: event.version, time });
    }

    fn insert(&mut self, entity: Uuid, known: Known) {
        self.newer.insert(entity, known);
        if self.newer.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.newer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_remember_only_the_latest_entities() {
        let entity = |number: usize| Uuid::from_u128(number as u128);
        let known = |version: usize| Known { version: version as i64, time: DateTime::UNIX_EPOCH };
        let mut versions = Versions::default();
        for number in 0..3 * REMEMBERED {
            versions.insert(entity(number), known(1));
            versions.insert(entity(0), known(number));
        }
        assert_eq!(versions.of(entity(0)), Some(known(3 * REMEMBERED - 1)), "what changes is not forgotten");
        assert!((2 * REMEMBERED..3 * REMEMBERED).all(|number| versions.of(entity(number)).is_some()));
        assert_eq!(versions.of(entity(1)), None);
        assert!(versions.newer.len() + versions.older.len() <= 2 * REMEMBERED);
    }
}
