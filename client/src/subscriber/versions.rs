//! The last delivered version of each entity.

use std::collections::HashMap;

use uuid::Uuid;

/// At least this many entities are remembered, at most twice as many.
const REMEMBERED: usize = 100_000;

/// Bounded: two maps, of which the older is forgotten when the newer is full.
#[derive(Default)]
pub struct Versions {
    newer: HashMap<Uuid, i64>,
    older: HashMap<Uuid, i64>,
}

impl Versions {
    pub fn of(&self, entity: Uuid) -> Option<i64> {
        self.newer.get(&entity).or_else(|| self.older.get(&entity)).copied()
    }

    pub fn note(&mut self, entity: Uuid, version: i64) {
        self.newer.insert(entity, version);
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
        let mut versions = Versions::default();
        for number in 0..3 * REMEMBERED {
            versions.note(entity(number), 1);
            versions.note(entity(0), number as i64);
        }
        assert_eq!(versions.of(entity(0)), Some(3 * REMEMBERED as i64 - 1), "what changes is not forgotten");
        assert!((2 * REMEMBERED..3 * REMEMBERED).all(|number| versions.of(entity(number)).is_some()));
        assert_eq!(versions.of(entity(1)), None);
        assert!(versions.newer.len() + versions.older.len() <= 2 * REMEMBERED);
    }
}
