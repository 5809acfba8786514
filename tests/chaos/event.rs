//! An event, reduced to its compared parts: a long run holds a million of them several times.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use postgres::Row;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use uuid::Uuid;

/// The identity of an event, its time, and a fingerprint of its other fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub id: i64,
    pub entity: Uuid,
    pub version: i64,
    /// Microseconds since 1970.
    pub changed_at: i64,
    pub content: u64,
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
        Event { id, entity, version, changed_at, content: fingerprint(&rest, &row.get(11)) }
    }

    /// Parses an event from Redis.
    pub fn from_json(json: &str) -> Result<Event> {
        let event: Value = serde_json::from_str(json).with_context(|| format!("not JSON: {json:.200}"))?;
        ensure!(event["metadata"].is_object(), "an event without metadata: {json:.200}");
        let text = |field: &str| event[field].as_str().map(str::to_owned);
        let rest = ["entity_type", "dag_id", "dag_run_id", "task_id", "old_state", "new_state", "actor"].map(text);
        let read = || {
            Some(Event {
                id: event["id"].as_i64()?,
                entity: event["entity_id"].as_str()?.parse().ok()?,
                version: event["version"].as_i64()?,
                changed_at: event["changed_at"].as_str()?.parse::<DateTime<Utc>>().ok()?.timestamp_micros(),
                content: fingerprint(&rest, &event["metadata"]),
            })
        };
        read().with_context(|| format!("not an event: {json:.200}"))
    }
}

fn fingerprint(rest: &[Option<String>; 7], metadata: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    rest.hash(&mut hasher);
    // The same parser has read both sides from the database's output.
    metadata.to_string().hash(&mut hasher);
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
