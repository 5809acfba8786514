//! An event, reduced to its compared parts: a long run holds a million of them several times.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use postgres::Row;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use uuid::Uuid;

/// The identity of an event, its time, and fingerprints of its other fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub id: i64,
    pub entity: Uuid,
    pub version: i64,
    /// Microseconds since 1970.
    pub changed_at: i64,
    pub content: u64,
    /// `None` in a notification that was too large to have them.
    pub metadata: Option<u64>,
}

impl Event {
    /// The columns of `state_history` that [`Event::from_row`] expects.
    pub const COLUMNS: &str = "id, entity_id, version, changed_at, entity_type, dag_id::text, dag_run_id::text, \
                               task_id, old_state, new_state, actor, metadata";

    pub fn from_row(row: &Row) -> Event {
        let text = |column: usize| row.get::<_, Option<String>>(column);
        let (id, entity, version): (i64, Uuid, i64) = (row.get(0), row.get(1), row.get(2));
        let rest = [text(4), text(5), text(6), text(7), text(8), text(9), text(10)];
        let changed_at = row.get::<_, DateTime<Utc>>(3).timestamp_micros();
        let metadata = Some(fingerprint(&row.get::<_, Value>(11).to_string()));
        Event { id, entity, version, changed_at, content: fingerprint(&rest), metadata }
    }

    /// Parses an event from a notification.
    pub fn from_notification(json: &str) -> Result<Event> {
        let event: Value = serde_json::from_str(json).with_context(|| format!("not JSON: {json:.200}"))?;
        let is_whole = event["metadata_omitted"] != true;
        ensure!(event["metadata"].is_object() == is_whole, "an event without metadata: {json:.200}");
        let mut parsed = Event::parse(&event)?;
        parsed.metadata = parsed.metadata.filter(|_| is_whole);
        Ok(parsed)
    }

    /// Parses an event from Redis, HTTP or the database.
    pub fn from_json(json: &str) -> Result<Event> {
        let event: Value = serde_json::from_str(json).with_context(|| format!("not JSON: {json:.200}"))?;
        ensure!(event["metadata"].is_object(), "an event without metadata: {json:.200}");
        Event::parse(&event)
    }

    fn parse(event: &Value) -> Result<Event> {
        let text = |field: &str| event[field].as_str().map(str::to_owned);
        let rest = ["entity_type", "dag_id", "dag_run_id", "task_id", "old_state", "new_state", "actor"].map(text);
        let read = || {
            Some(Event {
                id: event["id"].as_i64()?,
                entity: event["entity_id"].as_str()?.parse().ok()?,
                version: event["version"].as_i64()?,
                changed_at: event["changed_at"].as_str()?.parse::<DateTime<Utc>>().ok()?.timestamp_micros(),
                content: fingerprint(&rest),
                // The same parser has read both sides from the database's output.
                metadata: Some(fingerprint(&event["metadata"].to_string())),
            })
        };
        read().with_context(|| format!("not an event: {event:.200}"))
    }

    /// Returns whether the event is this one of the history, in all that it has.
    pub fn is_of(&self, written: &Event) -> bool {
        let metadata = self.metadata.or(written.metadata);
        Event { metadata, ..*self } == *written
    }
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Formats an event as a relay writes it to Redis, for stand-ins of the relay.
pub fn to_json(row: &Row) -> String {
    let text = |column: usize| row.get::<_, Option<String>>(column);
    json!({
        "id": row.get::<_, i64>(0),
        "entity_id": row.get::<_, Uuid>(1),
        "version": row.get::<_, i64>(2),
        "changed_at": row.get::<_, DateTime<Utc>>(3),
        "entity_type": text(4),
        "dag_id": text(5),
        "dag_run_id": text(6),
        "task_id": text(7),
        "old_state": text(8),
        "new_state": text(9),
        "actor": text(10),
        "metadata": row.get::<_, Value>(11),
    })
    .to_string()
}
