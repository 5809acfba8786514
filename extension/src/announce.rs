//! Announcing: the seam between a move and whoever waits for it.
//!
//! For now the transaction itself notifies. PostgreSQL then serializes the commits of all notifying transactions, so
//! this is the module to replace when a worker does it instead: nothing else knows how an event leaves.

use crate::ffi::jsonb::Jsonb;
use crate::ffi::notify::{MAX_PAYLOAD, notify};
use crate::ffi::uuid::Uuid;
use chrono::{DateTime, SecondsFormat};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use serde::Serialize;
use serde_json::value::RawValue;
use std::ffi::CStr;

const CHANNEL: &CStr = c"workflow_events";

/// What a NOTIFY on the channel carries.
#[derive(Clone, Copy, PartialEq, Eq, pgrx::PostgresGucEnum)]
pub enum Announce {
    /// Nothing is sent: readers find the events when they poll.
    #[name = c"off"]
    Off,
    /// An empty payload once a transaction: there is something to read.
    #[name = c"wakeup"]
    Wakeup,
    /// Each event as JSON.
    #[name = c"events"]
    Events,
}

static ANNOUNCE: GucSetting<Announce> = GucSetting::<Announce>::new(Announce::Events);

pub fn define_settings() {
    GucRegistry::define_enum_guc(
        c"pg_workflow.announce",
        c"What each move sends on the channel workflow_events.",
        c"off: nothing; wakeup: an empty payload once a transaction; events: each event as JSON.",
        &ANNOUNCE,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// A creation or a move, as the feed tells it.
pub struct Event<'a> {
    pub id: i64,
    pub entity_type: &'a str,
    pub entity_id: Uuid,
    pub dag_id: Uuid,
    pub dag_run_id: Uuid,
    pub task_id: Option<&'a str>,
    pub old_state: Option<&'a str>,
    pub new_state: &'a str,
    pub version: i64,
    /// Microseconds since 2000-01-01 UTC.
    pub changed_at: i64,
    pub actor: &'a str,
    pub metadata: Jsonb,
}

/// Announces an event, as far as anybody is to be told.
pub fn announce(event: &Event) {
    match ANNOUNCE.get() {
        Announce::Off => {}
        // PostgreSQL sends equal notifications of a transaction once.
        Announce::Wakeup => notify(CHANNEL, ""),
        Announce::Events => notify(CHANNEL, &payload(event)),
    }
}

/// An event as JSON, in the field order of the documentation.
#[derive(Serialize)]
struct Payload<'a> {
    id: i64,
    entity_type: &'a str,
    entity_id: String,
    dag_id: String,
    dag_run_id: String,
    task_id: Option<&'a str>,
    old_state: Option<&'a str>,
    new_state: &'a str,
    version: i64,
    changed_at: String,
    actor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    metadata_omitted: bool,
}

/// The event as JSON; without its metadata where NOTIFY could not carry it, which must not fail the transaction.
fn payload(event: &Event) -> String {
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
    // jsonb is seldom much larger than its text: what is far too large need not be spelled out to be left out.
    if event.metadata.size() <= 4 * MAX_PAYLOAD {
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

/// Microseconds since 2000-01-01 UTC as RFC 3339.
fn rfc3339(microseconds: i64) -> String {
    const UNIX_TO_POSTGRES_EPOCH: i64 = 946_684_800_000_000;
    DateTime::from_timestamp_micros(microseconds.saturating_add(UNIX_TO_POSTGRES_EPOCH))
        .map(|moment| moment.to_rfc3339_opts(SecondsFormat::Micros, true))
        .unwrap_or_default()
}
