use roaring::RoaringTreemap;

/// A set of event ids.
///
/// It takes at most one bit for each, so even a long backlog fits into memory.
///
/// ```
/// use pg_workflow_client::publisher::EventIds;
///
/// let mut ids: EventIds = [3, 4].into_iter().collect();
/// ids.insert(7);
/// assert_eq!(ids.len(), 3);
/// ```
#[derive(Clone, Debug, Default)]
pub struct EventIds(RoaringTreemap);

impl EventIds {
    /// Adds the id of an event.
    pub fn insert(&mut self, id: i64) {
        self.0.insert(id.unsigned_abs());
    }

    /// Returns the number of ids.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes an id; returns whether the set contained it.
    pub(crate) fn remove(&mut self, id: i64) -> bool {
        self.0.remove(id.unsigned_abs())
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.0.min()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl FromIterator<i64> for EventIds {
    fn from_iter<I: IntoIterator<Item = i64>>(ids: I) -> EventIds {
        EventIds(ids.into_iter().map(i64::unsigned_abs).collect())
    }
}
