//! The Redis stream: each event exactly once, appended only after the entry that is expected to be the last.
//!
//! An entry's id is `<milliseconds>-<event id>`: the time of the write, and the event. Ids must increase: an event whose id
//! is lower than the previous one gets the next millisecond. The field `source` names the database: the stream of another
//! one is refused. Subscribers can delete all entries, so a key beside the stream names it too.

use std::time::Duration;

use redis::RedisError;

use super::entry_id::{EntryId, now};
use super::event_set::Key;
use super::redis_connection::Connection;
use super::{EventSet, Position, Published, Publisher};
use crate::Error;
use crate::event::Event;
use crate::redis_server::RedisServer;

/// Appends entries and publishes them, all or none, if the stream's last id is the expected one. Returns its last id.
/// Redis undoes nothing if it denies a command. It denies the first of a kind, or none: each event is published first, so
/// that no event enters the stream unpublished.
/// KEYS: the stream. ARGV: the expected id, the channel (empty for none), the source, then pairs of id and event.
const APPEND: &str = r"
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then last = info[i + 1] end
    end
end
if last ~= ARGV[1] then return last end
for i = 4, #ARGV, 2 do
    if ARGV[2] ~= '' then redis.call('PUBLISH', ARGV[2], ARGV[i + 1]) end
    last = redis.call('XADD', KEYS[1], ARGV[i], 'event', ARGV[i + 1], 'source', ARGV[3])
end
return last
";

/// Removes the oldest entries that exceed a length and are old, at most 1000. Returns their number.
/// KEYS: the stream. ARGV: the length, the last id that may be removed.
const TRIM: &str = r"
local length = redis.call('XLEN', KEYS[1])
local excess = length - tonumber(ARGV[1])
if excess <= 0 then return 0 end
local old = #redis.call('XRANGE', KEYS[1], '-', ARGV[2], 'COUNT', math.min(excess, 1000))
if old > 0 then redis.call('XTRIM', KEYS[1], 'MAXLEN', length - old) end
return old
";
const TRIMMED_AT_ONCE: u64 = 1000;
/// Entries read back at once: as many as have this size together, by the size of the previous ones.
const PAGE: usize = 500;
const FIRST_PAGE: usize = 16;
const PAGE_BYTES: usize = 1 << 20;
/// Redis accepts every event below this size: the lowest value of `proto-max-bulk-len`.
const LARGE: usize = 1 << 20;

/// The names and the length of a stream.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The stream to append to.
    pub stream: String,
    /// The channel in which each event is published when it is appended; `None` for no channel.
    pub channel: Option<String>,
    /// Minimum number of entries that the stream keeps; 0 for all.
    pub max_length: u64,
    /// Minimum age of entries that are removed, however many there are.
    pub min_age: Duration,
    /// Sources of other databases whose events the stream may hold, for example of this one before it was restored.
    pub adopt: Vec<String>,
}

impl Default for StreamOptions {
    /// The defaults of `workflow-server serve`.
    fn default() -> StreamOptions {
        StreamOptions {
            stream: "workflow:stream".to_owned(),
            channel: Some("workflow:events".to_owned()),
            max_length: 1_000_000,
            min_age: Duration::from_secs(600),
            adopt: Vec::new(),
        }
    }
}

/// Appends each event to a Redis stream exactly once.
///
/// Publishes it in a channel at least once.
///
/// ```
/// use pg_workflow_client::publisher::{RedisStream, StreamOptions};
/// use pg_workflow_client::redis_server::RedisServer;
///
/// let server = RedisServer::parse("redis://127.0.0.1:6379")?;
/// let stream = RedisStream::new(server.clone(), StreamOptions::default());
/// let alone = RedisStream::new(server, StreamOptions { channel: None, ..StreamOptions::default() });
/// # Ok::<(), pg_workflow_client::Error>(())
/// ```
pub struct RedisStream {
    redis: Connection,
    options: StreamOptions,
    /// The source of the events.
    source: String,
    /// Whether the key beside the stream has this source.
    is_source_stored: bool,
    /// Whether it has this source or an adopted one, and the stream has had entries.
    has_published: bool,
    /// The last known end of the stream.
    end: EntryId,
}

impl RedisStream {
    /// Creates a publisher for a stream; does not connect yet.
    pub fn new(server: RedisServer, options: StreamOptions) -> RedisStream {
        let redis = Connection::to(server);
        let (source, end) = (String::new(), EntryId::default());
        RedisStream { redis, options, source, is_source_stored: false, has_published: false, end }
    }

    /// Appends entries if the stream ends at `expected`, and returns its end.
    async fn append(&mut self, expected: EntryId, entries: &[(EntryId, Vec<u8>)]) -> Result<EntryId, Error> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(APPEND).arg(1).arg(&self.options.stream).arg(expected.to_string());
        eval.arg(self.options.channel.as_deref().unwrap_or_default()).arg(&self.source);
        for (id, event) in entries {
            eval.arg(id.to_string()).arg(event);
        }
        let last: String = self.redis.ask(&eval).await?;
        EntryId::parse(&last).ok_or_else(|| unexpected(&last))
    }

    /// The key beside the stream: a stream of one entry, so that the relay needs no other commands.
    fn source_key(&self) -> String {
        format!("{}:source", self.options.stream)
    }

    /// Stores the source, once events have been appended: then no other database can append any unseen.
    async fn store_source(&mut self) -> Result<(), Error> {
        if !self.is_source_stored {
            let mut add = redis::cmd("XADD");
            add.arg(self.source_key()).arg("MAXLEN").arg(1).arg("*").arg("source").arg(&self.source);
            self.redis.ask::<String>(&add).await?;
            self.is_source_stored = true;
        }
        Ok(())
    }

    /// Checks the key beside the stream. A stream that never had an entry is of no database.
    async fn check_stored_source(&mut self, end: EntryId) -> Result<(), Error> {
        let mut range = redis::cmd("XRANGE");
        range.arg(self.source_key()).arg("-").arg("+");
        let stored: Vec<(String, Vec<Vec<u8>>)> = self.redis.ask(&range).await?;
        let stored = stored.last().and_then(|(_, fields)| field(fields, "source")).map(text);
        self.is_source_stored = stored.as_ref() == Some(&self.source);
        let is_adopted = stored.as_ref().is_some_and(|stored| self.options.adopt.contains(stored));
        self.has_published = (self.is_source_stored || is_adopted) && end != EntryId::default();
        if end == EntryId::default() { Ok(()) } else { self.check_source(stored.as_ref()) }
    }

    /// Checks that a source is not another database. Versions before 0.3.0 stored none.
    fn check_source(&self, source: Option<&String>) -> Result<(), Error> {
        match source {
            Some(found) if *found != self.source && !self.options.adopt.contains(found) => Err(Error::OtherSource {
                destination: format!("stream \"{}\"", self.options.stream),
                found: found.clone(),
                own: self.source.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl Publisher for RedisStream {
    fn name(&self) -> String {
        "Redis".to_owned()
    }

    fn describe(&self) -> String {
        let StreamOptions { stream, channel, .. } = &self.options;
        let channel = channel.as_ref().map_or_else(String::new, |channel| format!(" and channel \"{channel}\""));
        format!("stream \"{stream}\"{channel} of Redis at {}", self.redis.server)
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.redis.connect().await
    }

    async fn begin(&mut self, source: &str) -> Result<(), Error> {
        source.clone_into(&mut self.source);
        Ok(())
    }

    /// Returns the id of the last entry that was ever added; zeros if there is no stream.
    async fn position(&mut self) -> Result<Option<Position>, Error> {
        // Runs the script with no entries, and an id at which no stream ends.
        self.end = self.append(EntryId { milliseconds: u64::MAX, event: u64::MAX }, &[]).await?;
        Ok(Some(self.end.into()))
    }

    /// Returns the events of a part of the stream, whose entries, and the one before, must be of this database.
    async fn holds(&mut self, after: Position, up_to: Position) -> Result<EventSet, Error> {
        let (after, up_to) = (EntryId::from(after), EntryId::from(up_to));
        self.check_stored_source(up_to).await?;
        let mut events = EventSet::default();
        let mut from = after;
        let mut count = FIRST_PAGE;
        while from <= up_to {
            let mut range = redis::cmd("XRANGE");
            range.arg(&self.options.stream).arg(from.to_string()).arg(up_to.to_string()).arg("COUNT").arg(count);
            let page: Vec<(String, Vec<Vec<u8>>)> = self.redis.ask(&range).await?;
            for (id, fields) in &page {
                let id = EntryId::parse(id).ok_or_else(|| unexpected(id))?;
                from = EntryId { event: id.event.saturating_add(1), ..id };
                let Some(entry) = Entry::of(id, fields) else { continue };
                self.check_source(entry.source.as_ref())?;
                if id > after {
                    events.insert_key(&entry.event);
                }
            }
            if page.len() < count {
                break;
            }
            let bytes: usize = page.iter().flat_map(|(_, fields)| fields).map(Vec::len).sum();
            count = (PAGE_BYTES * page.len() / bytes.max(1)).clamp(1, PAGE);
        }
        Ok(events)
    }

    fn has_published(&self) -> bool {
        self.has_published
    }

    async fn publish(&mut self, events: &[Event], after: Option<Position>) -> Result<Published, Error> {
        // A position truncates ids of other programs' entries, which can be greater than any of the relay.
        let mut expected = after.filter(|after| *after != Position::from(self.end)).map_or(self.end, EntryId::from);
        loop {
            let mut aim = expected;
            let mut entries = Vec::with_capacity(events.len());
            for event in events {
                aim = aim.next(event.id);
                entries.push((aim, serde_json::to_vec(event)?));
            }
            self.end = self.append(expected, &entries).await.map_err(|error| name_large(events, &entries, error))?;
            if self.end == aim {
                self.store_source().await?;
                return Ok(Published::UpTo(aim.into()));
            }
            if after.is_some() {
                return Ok(Published::EndsAt(self.end.into()));
            }
            // The caller did not expect a certain end.
            expected = self.end;
        }
    }

    async fn check(&mut self) -> Result<(), Error> {
        self.redis.check(&self.options.stream).await
    }

    /// Trims the stream, but removes no entry that is too young.
    async fn trim(&mut self, keep_after: Position) -> Result<(), Error> {
        if self.options.max_length == 0 {
            return Ok(());
        }
        let age = u64::try_from(self.options.min_age.as_millis()).unwrap_or(u64::MAX);
        let old = EntryId { milliseconds: now().saturating_sub(age), event: u64::MAX }.min(keep_after.into());
        // Bounded, so that events do not wait long.
        for _ in 0..20 {
            let mut eval = redis::cmd("EVAL");
            eval.arg(TRIM).arg(1).arg(&self.options.stream).arg(self.options.max_length).arg(old.to_string());
            let removed: u64 = self.redis.ask(&eval).await?;
            if removed < TRIMMED_AT_ONCE {
                break;
            }
        }
        Ok(())
    }
}

/// An entry that the relay of a database wrote.
struct Entry {
    event: Key,
    source: Option<String>,
}

impl Entry {
    /// Returns `None` for an entry of another program. It can have such an id, because Redis increments the last one; then
    /// it does not hold the event that its id names.
    fn of(id: EntryId, fields: &[Vec<u8>]) -> Option<Entry> {
        let event: Key = serde_json::from_slice(field(fields, "event")?).ok()?;
        let source = field(fields, "source").map(text);
        (event.id.unsigned_abs() == id.event).then_some(Entry { event, source })
    }
}

fn field<'a>(fields: &'a [Vec<u8>], name: &str) -> Option<&'a [u8]> {
    fields.chunks_exact(2).find(|field| field[0] == name.as_bytes()).map(|field| &field[1][..])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Names an event that may be too large for Redis, if the error came when it was written alone.
fn name_large(events: &[Event], entries: &[(EntryId, Vec<u8>)], error: Error) -> Error {
    match (events, entries) {
        ([event], [(_, json)]) if json.len() >= LARGE => {
            Error::LargeEvent { event_id: event.id, bytes: json.len(), cause: Box::new(error) }
        }
        _ => error,
    }
}

fn unexpected(response: &str) -> Error {
    RedisError::from((redis::ErrorKind::UnexpectedReturnType, "not the id of a stream's entry", response.to_owned()))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_of_another_program_is_no_event() {
        let id = EntryId { milliseconds: 1, event: 22 };
        let is_event = |fields: &[&str]| {
            let fields: Vec<Vec<u8>> = fields.iter().map(|field| field.as_bytes().to_vec()).collect();
            Entry::of(id, &fields).map(|entry| entry.source)
        };
        let event = |id: u64| {
            format!(
                r#"{{"id":{id},"entity_id":"01890a5d-ac96-774b-bcce-b302099a8057","version":1,
                "changed_at":"2026-11-23T22:10:25.123456Z"}}"#
            )
        };
        assert_eq!(is_event(&["event", &event(22)]), Some(None));
        assert_eq!(is_event(&["event", &event(22), "source", "7/16384"]), Some(Some("7/16384".to_owned())));
        assert_eq!(is_event(&["event", &event(0)]), None);
        assert_eq!(is_event(&["event", r#"{"id":22}"#]), None);
        assert_eq!(is_event(&["event", "hello"]), None);
        assert_eq!(is_event(&[]), None);
    }
}
