//! The evidence after a run: confirmed transitions, history, stream, and received events.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use postgres::{Client, NoTls};
use redis::Commands;
use redis::streams::StreamRangeReply;
use serde_json::Value;
use std::collections::HashMap;
use uuid::Uuid;

use super::claims;
use super::event::Event;
use super::graphs;
use super::receivers::Received;
use super::witness::Record;
use super::writers::Written;

/// The relay's stream.
pub const STREAM: &str = "workflow:stream";
/// The relay's channel.
pub const CHANNEL: &str = "workflow:events";

/// All data that the checker compares.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The transitions that were confirmed to the writers: entity and version.
    pub acknowledged: Vec<(Uuid, i64)>,
    /// Responses that a writer must never get.
    pub complaints: Vec<String>,
    /// The rows of `state_history`.
    pub history: Vec<Event>,
    /// The time of each event's commit, by its ID, if the server knows it. Milliseconds since 1970.
    pub committed_at: HashMap<i64, i64>,
    /// The problems that `verify()` reports.
    pub problems: Vec<String>,
    /// The entries of the stream, in order.
    pub stream: Vec<Entry>,
    pub receivers: Vec<Received>,
    pub witnesses: Vec<Record>,
    pub claims: claims::evidence::Evidence,
    pub graphs: graphs::evidence::Evidence,
    /// The time at which the run began, if its clock was set by whole hours. Milliseconds since 1970.
    pub began_at: Option<i64>,
}

/// An entry of the stream.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: String,
    pub event: Event,
}

impl Entry {
    /// Returns the time in its id: milliseconds since 1970.
    pub fn written_at(&self) -> Option<i64> {
        self.id.split('-').next()?.parse().ok()
    }
}

impl Evidence {
    /// Returns the right time for a time by the servers' clock: a run is shorter than the hours by which it was set.
    pub fn right_time(&self, at: i64) -> i64 {
        const HOUR: i64 = 3_600_000;
        self.began_at.map_or(at, |began| began + (at - began).rem_euclid(HOUR))
    }

    /// Collects the evidence from the servers. All writers must have ended, and the relay must have caught up.
    pub fn gather(database_url: &str, redis_url: &str, written: Written, receivers: Vec<Received>) -> Result<Evidence> {
        let mut database = Client::connect(database_url, NoTls)?;
        let mut redis = redis::Client::open(redis_url)?.get_connection()?;
        Ok(Evidence {
            acknowledged: written.acknowledged,
            complaints: written.complaints,
            history: history(&mut database)?,
            committed_at: commits(&mut database)?,
            problems: problems(&mut database)?,
            stream: stream(&mut redis)?,
            receivers,
            witnesses: Vec::new(),
            claims: claims::evidence::Evidence::default(),
            graphs: graphs::evidence::Evidence::default(),
            began_at: None,
        })
    }
}

pub(super) fn history(database: &mut Client) -> Result<Vec<Event>> {
    const BATCH: i64 = 10_000;
    // All writers have ended; only therefore is it safe to read by ids.
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

fn commits(database: &mut Client) -> Result<HashMap<i64, i64>> {
    let knows = "SELECT pg_catalog.current_setting('track_commit_timestamp')::boolean";
    if !database.query_one(knows, &[])?.get::<_, bool>(0) {
        return Ok(HashMap::new());
    }
    let sql = "SELECT id, pg_catalog.pg_xact_commit_timestamp(xmin) FROM workflow.state_history";
    let rows = database.query(sql, &[])?;
    let committed =
        |row: &postgres::Row| Some((row.get(0), row.get::<_, Option<DateTime<Utc>>>(1)?.timestamp_millis()));
    Ok(rows.iter().filter_map(committed).collect())
}

pub(super) fn problems(database: &mut Client) -> Result<Vec<String>> {
    let rows = database.query("SELECT entity_id, problem, detail FROM workflow.verify()", &[])?;
    let shown = |row: &postgres::Row| {
        let entity = row.get::<_, Option<Uuid>>(0).map_or("all".to_owned(), |id| id.to_string());
        format!("{entity}: {}: {}", row.get::<_, String>(1), row.get::<_, Value>(2))
    };
    Ok(rows.iter().map(shown).collect())
}

pub(super) fn stream(redis: &mut redis::Connection) -> Result<Vec<Entry>> {
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
    let others = fields.keys().filter(|name| !["event", "source"].contains(&name.as_str())).count();
    ensure!(others == 0, "entry {id} has other fields than event and source");
    let json: String = redis::from_redis_value_ref(json)?;
    let event = Event::from_json(&json).with_context(|| format!("entry {id}"))?;
    Ok(Entry { id, event })
}
