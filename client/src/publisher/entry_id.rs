//! Ids of the entries of a Redis stream.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Position;

/// The id of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// Milliseconds since 1970.
    pub milliseconds: u64,
    /// The event's id, in entries of the relay.
    pub event: u64,
}

impl EntryId {
    /// Returns the id of the next entry.
    pub fn next(self, event: i64) -> EntryId {
        let event = event.unsigned_abs();
        let earliest = if event > self.event { self.milliseconds } else { self.milliseconds + 1 };
        EntryId { milliseconds: earliest.max(now()), event }
    }

    pub fn parse(text: &str) -> Option<EntryId> {
        let (milliseconds, event) = text.split_once('-')?;
        Some(EntryId { milliseconds: milliseconds.parse().ok()?, event: event.parse().ok()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.event)
    }
}

/// Converts to the form that the database stores.
impl From<EntryId> for Position {
    fn from(id: EntryId) -> Position {
        [id.milliseconds, id.event].map(|number| i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<Position> for EntryId {
    fn from([milliseconds, event]: Position) -> EntryId {
        EntryId { milliseconds: milliseconds.unsigned_abs(), event: event.unsigned_abs() }
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_increase_for_any_event_id_and_clock() {
        let ahead = EntryId { milliseconds: now() + 60_000, event: 7 };
        assert_eq!(ahead.next(8), EntryId { event: 8, ..ahead });
        assert_eq!(ahead.next(7), EntryId { milliseconds: ahead.milliseconds + 1, event: 7 });
        assert_eq!(ahead.next(3), EntryId { milliseconds: ahead.milliseconds + 1, event: 3 });
        let past = EntryId { milliseconds: 5, event: 7 };
        assert!(past.next(3) > past && past.next(3).milliseconds >= now() - 1000);
    }

    #[test]
    fn id_parses_from_its_text() {
        let id = EntryId { milliseconds: 1_764_000_000_000, event: 4711 };
        assert_eq!(EntryId::parse(&id.to_string()), Some(id));
        assert_eq!(EntryId::from(Position::from(id)), id);
        assert_eq!(EntryId::parse("1764000000000"), None);
    }
}
