//! What is left when a run is over: what was promised, what was written, what came out.

use anyhow::{Context, Result, ensure};
use postgres::{Client, NoTls};
use redis::Commands;
use redis::streams::StreamRangeReply;
use serde_json::Value;
use std::collections::HashMap;
use uuid::Uuid;

use super::event::Event;
use super::receivers::Received;
use super::writers::Written;

/// The stream that the relay writes.
pub const STREAM: &str = "workflow:stream";
/// The channel that it publishes in.
pub const CHANNEL: &str = "workflow:events";

/// Everything that is compared.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The moves that the writers were told had been made: entity and version.
    pub acknowledged: Vec<(Uuid, i64)>,
    /// Answers that a writer should never get.
    pub complaints: Vec<String>,
    /// state_history.
    pub history: Vec<Event>,
    /// What verify() found.
    pub problems: Vec<String>,
    /// The stream, in its order.
    pub stream: Vec<Entry>,
    pub receivers: Vec<Received>,
}

/// An entry of the stream.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: String,
    pub event: Event,
}

impl Entry {
    /// When it was written, as its id says: milliseconds since 1970.
    pub fn written_at(&self) -> Option<i64> {
        self.id.split('-').next()?.parse().ok()
    }
}

impl Evidence {
    /// Collects what the servers hold. All writers must have ended, and the relay have caught up.
    pub fn gather(database_url: &str, redis_url: &str, written: Written, receivers: Vec<Received>) -> Result<Evidence> {
        let mut database = Client::connect(database_url, NoTls)?;
        let mut redis = redis::Client::open(redis_url)?.get_connection()?;
        Ok(Evidence {
            acknowledged: written.acknowledged,
            complaints: written.complaints,
            history: history(&mut database)?,
            problems: problems(&mut database)?,
            stream: stream(&mut redis)?,
            receivers,
        })
    }
}

fn history(database: &mut Client) -> Result<Vec<Event>> {
    const BATCH: i64 = 10_000;
    // Nobody writes any more, so here, and only here, ids may be followed.
    let sql = format!("SELECT {} FROM workflow.state_history WHERE id > $1 ORDER BY id LIMIT {BATCH}", Event::COLUMNS);
    let mut events: Vec<Event> = Vec::new();
    loop {
        let last = events.last().map_or(0, |event| event.id);
        let rows = database.query(&sql, &[&last])?;
        if rows.is_empty() {
            return Ok(events);
        }
        events.extend(rows.iter().map(Event::from_row));
    }
}

fn problems(database: &mut Client) -> Result<Vec<String>> {
    let rows = database.query("SELECT entity_id, problem, detail FROM workflow.verify()", &[])?;
    let shown = |row: &postgres::Row| {
        let entity = row.get::<_, Option<Uuid>>(0).map_or("all".to_owned(), |id| id.to_string());
        format!("{entity}: {}: {}", row.get::<_, String>(1), row.get::<_, Value>(2))
    };
    Ok(rows.iter().map(shown).collect())
}

fn stream(redis: &mut redis::Connection) -> Result<Vec<Entry>> {
    const BATCH: usize = 5000;
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let from = entries.last().map_or("-".to_owned(), |entry| format!("({}", entry.id));
        let reply: StreamRangeReply = redis.xrange_count(STREAM, from, "+", BATCH)?;
        if reply.ids.is_empty() {
            return Ok(entries);
        }
        for entry in reply.ids {
            entries.push(read_entry(entry.id, &entry.map)?);
        }
    }
}

fn read_entry(id: String, fields: &HashMap<String, redis::Value>) -> Result<Entry> {
    let json = fields.get("event").with_context(|| format!("entry {id} has no field event"))?;
    ensure!(fields.len() == 1, "entry {id} has other fields than event");
    let json: String = redis::from_redis_value_ref(json)?;
    let event = Event::from_json(&json).with_context(|| format!("entry {id}"))?;
    Ok(Entry { id, event })
}
