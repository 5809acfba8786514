//! An event of the feed, and its JSON in notifications.

use crate::ffi::jsonb::Jsonb;
use crate::ffi::notify::MAX_PAYLOAD;
use crate::ffi::uuid::Uuid;
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::value::RawValue;

/// The NOTIFY channel of the events.
pub const CHANNEL: &str = "workflow_events";

/// The record of a creation, a transition or a deletion.
pub struct Event<'a> {
    pub id: i64,
    pub entity_type: &'a str,
    pub entity_id: Uuid,
    pub dag_id: Uuid,
    pub dag_run_id: Uuid,
    /// `None` for a run.
    pub task_id: Option<&'a str>,
    /// `None` for a creation.
    pub old_state: Option<&'a str>,
    /// `None` for a deletion.
    pub new_state: Option<&'a str>,
    pub version: i64,
    /// Microseconds since 2000-01-01 UTC.
    pub changed_at: i64,
    pub actor: &'a str,
    pub metadata: Jsonb,
    /// Not in the JSON.
    pub request_id: Option<&'a str>,
}

/// The JSON of an event, in the field order of the documentation.
#[derive(Serialize)]
struct Payload<'a> {
    id: i64,
    entity_type: &'a str,
    entity_id: String,
    dag_id: String,
    dag_run_id: String,
    task_id: Option<&'a str>,
    old_state: Option<&'a str>,
    new_state: Option<&'a str>,
    version: i64,
    changed_at: String,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    metadata_omitted: bool,
}

/// Formats an event as JSON. Omits the metadata if NOTIFY could not carry it: the transaction must not fail for that.
pub fn payload(event: &Event) -> String {
    let mut payload = Payload {
        id: event.id,
        entity_type: event.entity_type,
        entity_id: event.entity_id.to_string(),
        dag_id: event.dag_id.to_string(),
        dag_run_id: event.dag_run_id.to_string(),
        task_id: event.task_id,
        old_state: event.old_state,
        new_state: event.new_state,
        version: event.version,
        changed_at: rfc3339(event.changed_at),
        actor: event.actor,
        metadata: None,
        metadata_omitted: false,
    };
    // Its text may be far larger than the value itself: measure it before it is formatted.
    if event.metadata.fits(MAX_PAYLOAD) {
        payload.metadata = RawValue::from_string(event.metadata.to_json_text()).ok();
    }
    payload.metadata_omitted = payload.metadata.is_none();
    let json = serde_json::to_string(&payload).unwrap_or_default();
    if json.len() <= MAX_PAYLOAD {
        return json;
    }
    payload.metadata = None;
    payload.metadata_omitted = true;
    serde_json::to_string(&payload).unwrap_or_default()
}

/// Formats microseconds since 2000-01-01 UTC by RFC 3339.
fn rfc3339(microseconds: i64) -> String {
    const UNIX_TO_POSTGRES_EPOCH: i64 = 946_684_800_000_000;
    DateTime::from_timestamp_micros(microseconds.saturating_add(UNIX_TO_POSTGRES_EPOCH))
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
        .unwrap_or_default()
}
