//! The history as an index, and the comparison of one reader's events with it.

use std::collections::{HashMap, HashSet};
use uuid::Uuid;

use super::event::Event;

/// The history, indexed.
pub struct History<'a> {
    pub events: &'a [Event],
    pub by_id: HashMap<i64, &'a Event>,
    pub versions: HashSet<(Uuid, i64)>,
}

impl<'a> History<'a> {
    pub fn of(events: &'a [Event]) -> History<'a> {
        let by_id = events.iter().map(|event| (event.id, event)).collect();
        let versions = events.iter().map(|event| (event.entity, event.version)).collect();
        History { events, by_id, versions }
    }
}

/// The events seen so far, and the latest version of each entity.
#[derive(Default)]
pub struct Tally {
    pub seen: HashSet<i64>,
    latest: HashMap<Uuid, i64>,
}

pub enum Taken {
    First,
    Again,
    /// After a higher version of the same entity.
    Late(i64),
    /// History has no such event.
    Phantom,
    Altered,
}

impl Tally {
    pub fn take(&mut self, event: &Event, history: &History<'_>) -> Taken {
        match history.by_id.get(&event.id) {
            // An undone transition can have the id of another event, because ids are used again.
            Some(written) if (written.entity, written.version) == (event.entity, event.version) => {
                if !self.seen.insert(event.id) {
                    return Taken::Again;
                }
                let latest = self.latest.entry(event.entity).or_insert(0);
                if event.version < *latest {
                    return Taken::Late(*latest);
                }
                *latest = event.version;
                if event.is_of(written) { Taken::First } else { Taken::Altered }
            }
            _ => Taken::Phantom,
        }
    }
}

pub fn shown(event: &Event) -> String {
    let at = chrono::DateTime::from_timestamp_micros(event.changed_at).unwrap_or_default();
    format!("event {}, {} version {}, changed at {}", event.id, event.entity, event.version, at.format("%H:%M:%S%.3f"))
}
