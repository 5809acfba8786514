//! The Redis stream: each event once, appended only behind the entry that is expected to be its last.
//!
//! An entry's id is `<milliseconds>-<event id>`: when the relay wrote it, and which event it is. So what is in the
//! stream can be told from its ids. Ids must increase; an event whose id is lower than the one before takes the next
//! millisecond.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::RedisError;
use redis::aio::ConnectionLike;
use roaring::RoaringTreemap;
use serde::Deserialize;

use crate::Error;

/// Adds entries and publishes them, all or none, if the stream's last id is the one expected. Returns its last id.
/// KEYS: the stream. ARGV: the expected id, the channel, then id and event by turns.
const APPEND: &str = r"
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then last = info[i + 1] end
    end
end
if last ~= ARGV[1] then return last end
for i = 3, #ARGV, 2 do
    last = redis.call('XADD', KEYS[1], ARGV[i], 'event', ARGV[i + 1])
    redis.call('PUBLISH', ARGV[2], ARGV[i + 1])
end
return last
";

/// Removes the oldest entries beyond a length, as far as they are old, and 1000 at most. Returns how many.
/// KEYS: the stream. ARGV: the length, the last id that may go.
const TRIM: &str = r"
local length = redis.call('XLEN', KEYS[1])
local excess = length - tonumber(ARGV[1])
if excess <= 0 then return 0 end
local old = #redis.call('XRANGE', KEYS[1], '-', ARGV[2], 'COUNT', math.min(excess, 1000))
if old > 0 then redis.call('XTRIM', KEYS[1], 'MAXLEN', length - old) end
return old
";
const TRIMMED_AT_ONCE: u64 = 1000;
/// Entries read back at once.
const PAGE: usize = 500;

/// An entry's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// Milliseconds since 1970.
    pub milliseconds: u64,
    /// In entries of ours, the event's id.
    pub event: u64,
}

impl EntryId {
    /// The id of the next entry.
    pub fn next(self, event: i64) -> EntryId {
        let event = event.unsigned_abs();
        let earliest = if event > self.event { self.milliseconds } else { self.milliseconds + 1 };
        EntryId { milliseconds: earliest.max(now()), event }
    }

    fn parse(text: &str) -> Option<EntryId> {
        let (milliseconds, event) = text.split_once('-')?;
        Some(EntryId { milliseconds: milliseconds.parse().ok()?, event: event.parse().ok()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.event)
    }
}

/// As the database keeps it.
impl From<EntryId> for [i64; 2] {
    fn from(id: EntryId) -> [i64; 2] {
        [id.milliseconds, id.event].map(|number| i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<[i64; 2]> for EntryId {
    fn from([milliseconds, event]: [i64; 2]) -> EntryId {
        EntryId { milliseconds: milliseconds.unsigned_abs(), event: event.unsigned_abs() }
    }
}

fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

/// A stream and the channel beside it, over one connection.
pub struct EventStream<C> {
    redis: C,
    name: String,
    channel: String,
}

/// What has become of entries that were to be appended.
#[derive(Debug, PartialEq, Eq)]
pub enum Appended {
    /// They are in the stream and were published.
    Yes,
    /// The stream ends elsewhere; nothing was done.
    StreamEndsAt(EntryId),
}

impl<C: ConnectionLike> EventStream<C> {
    pub fn new(redis: C, name: &str, channel: &str) -> EventStream<C> {
        EventStream { redis, name: name.to_owned(), channel: channel.to_owned() }
    }

    /// Sees that Redis answers: by the key, because in a cluster PING would ask nodes that do not matter here.
    pub async fn check(&mut self) -> Result<(), Error> {
        Ok(redis::cmd("EXISTS").arg(&self.name).query_async(&mut self.redis).await?)
    }

    /// The id of the last entry that was ever added; 0-0 where there is no stream.
    pub async fn last_id(&mut self) -> Result<EntryId, Error> {
        // The script with nothing to add, and an id that no stream ends at.
        match self.append(EntryId { milliseconds: u64::MAX, event: u64::MAX }, &Chunk::default()).await? {
            Appended::StreamEndsAt(id) => Ok(id),
            Appended::Yes => Err(unexpected("the largest possible id")),
        }
    }

    /// Appends a chunk if the stream ends at `expected`.
    pub async fn append(&mut self, expected: EntryId, chunk: &Chunk) -> Result<Appended, Error> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(APPEND).arg(1).arg(&self.name).arg(expected.to_string()).arg(&self.channel);
        for (id, event) in &chunk.entries {
            eval.arg(id.to_string()).arg(event);
        }
        let last: String = eval.query_async(&mut self.redis).await?;
        let last = EntryId::parse(&last).ok_or_else(|| unexpected(&last))?;
        let aim = chunk.entries.last().map_or(expected, |(id, _)| *id);
        Ok(if last == aim { Appended::Yes } else { Appended::StreamEndsAt(last) })
    }

    /// Which events the entries after one id and up to another are.
    pub async fn events_between(&mut self, after: EntryId, up_to: EntryId) -> Result<RoaringTreemap, Error> {
        let mut events = RoaringTreemap::new();
        let mut from = EntryId { event: after.event.saturating_add(1), ..after };
        while from <= up_to {
            let mut range = redis::cmd("XRANGE");
            range.arg(&self.name).arg(from.to_string()).arg(up_to.to_string()).arg("COUNT").arg(PAGE);
            let page: Vec<(String, Vec<Vec<u8>>)> = range.query_async(&mut self.redis).await?;
            for (id, fields) in &page {
                let id = EntryId::parse(id).ok_or_else(|| unexpected(id))?;
                if is_ours(id, fields) {
                    events.insert(id.event);
                }
                from = EntryId { event: id.event.saturating_add(1), ..id };
            }
            if page.len() < PAGE {
                break;
            }
        }
        Ok(events)
    }

    /// Shortens the stream to `length`, but removes nothing that is younger than `age` or written after `keep_from`.
    pub async fn trim(&mut self, length: u64, age: Duration, keep_from: EntryId) -> Result<(), Error> {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let old = EntryId { milliseconds: now().saturating_sub(age), event: u64::MAX }.min(keep_from);
        // Bounded, so that events need not wait for long.
        for _ in 0..20 {
            let mut eval = redis::cmd("EVAL");
            eval.arg(TRIM).arg(1).arg(&self.name).arg(length).arg(old.to_string());
            let removed: u64 = eval.query_async(&mut self.redis).await?;
            if removed < TRIMMED_AT_ONCE {
                break;
            }
        }
        Ok(())
    }
}

/// Whether an entry holds the event that its id tells. Somebody else's may have an id that looks like one of ours: Redis
/// itself counts on from the last.
fn is_ours(id: EntryId, fields: &[Vec<u8>]) -> bool {
    #[derive(Deserialize)]
    struct Event {
        id: u64,
    }
    let event = fields.get(1).and_then(|event| serde_json::from_slice::<Event>(event).ok());
    event.is_some_and(|event| event.id == id.event)
}

fn unexpected(answer: &str) -> Error {
    RedisError::from((redis::ErrorKind::UnexpectedReturnType, "not the id of a stream's entry", answer.to_owned()))
        .into()
}

/// Entries to append.
#[derive(Default)]
pub struct Chunk {
    entries: Vec<(EntryId, Vec<u8>)>,
    bytes: usize,
}

impl Chunk {
    pub fn push(&mut self, id: EntryId, event: Vec<u8>) {
        self.bytes += event.len();
        self.entries.push((id, event));
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_increase_whatever_the_events_ids_and_the_clock() {
        let ahead = EntryId { milliseconds: now() + 60_000, event: 7 };
        assert_eq!(ahead.next(8), EntryId { event: 8, ..ahead });
        assert_eq!(ahead.next(7), EntryId { milliseconds: ahead.milliseconds + 1, event: 7 });
        assert_eq!(ahead.next(3), EntryId { milliseconds: ahead.milliseconds + 1, event: 3 });
        let past = EntryId { milliseconds: 5, event: 7 };
        assert!(past.next(3) > past && past.next(3).milliseconds >= now() - 1000);
    }

    #[test]
    fn an_entry_of_somebody_else_is_not_taken_for_an_event() {
        let id = EntryId { milliseconds: 1, event: 22 };
        let entry = |event: &str| [b"event".to_vec(), event.as_bytes().to_vec()];
        assert!(is_ours(id, &entry(r#"{"id":22,"version":1}"#)));
        assert!(!is_ours(id, &entry(r#"{"id":0}"#)));
        assert!(!is_ours(id, &entry("hello")));
        assert!(!is_ours(id, &[]));
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = EntryId { milliseconds: 1_764_000_000_000, event: 4711 };
        assert_eq!(EntryId::parse(&id.to_string()), Some(id));
        assert_eq!(EntryId::from(<[i64; 2]>::from(id)), id);
        assert_eq!(EntryId::parse("1764000000000"), None);
    }
}
