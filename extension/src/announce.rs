//! Announcing: how an event, once its transaction has committed, becomes known to whoever waits for it.
//!
//! Where the library is preloaded, the notifier does it (see `notifier.rs`) and the transaction only marks itself.
//! Elsewhere the transaction notifies, which serializes its commit with those of all others that do.

use crate::ffi::jsonb::Jsonb;
use crate::ffi::notify::{MAX_PAYLOAD, notify};
use crate::ffi::uuid::Uuid;
use crate::ffi::{error, session, transaction};
use crate::settings::{self, Announce};
use crate::signals::{self, CHANNEL};
use chrono::{DateTime, SecondsFormat};
use pgrx::pg_sys::Oid;
use serde::Serialize;
use serde_json::value::RawValue;
use std::cell::Cell;
use std::fs;

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

/// What the transaction itself sends.
pub struct Announcer(Announce);

impl Announcer {
    /// Has the transaction under way wake those who wait, when it commits. Its history is the table `history`.
    pub fn of_transaction(history: Oid, owner: Oid) -> Announcer {
        let announce = settings::announce();
        let entry = signals::entry();
        if let Some(entry) = entry {
            transaction::mark(entry);
        }
        let is_wanted = announce != Announce::Off && settings::serves(|| session::database_name(session::database()));
        if !is_wanted {
            return Announcer(announce);
        }
        if entry.is_some_and(|entry| signals::ensure_notifier(entry, history, owner)) {
            return Announcer(Announce::Off);
        }
        say_once_what_that_costs(entry.is_some());
        Announcer(announce)
    }

    pub fn announce(&self, event: &Event) {
        match self.0 {
            Announce::Off => {}
            // PostgreSQL sends equal notifications of a transaction once.
            Announce::Wakeup => notify(CHANNEL, ""),
            Announce::Events => notify(CHANNEL, &payload(event)),
        }
    }
}

/// A line in the log, from the first backend since the server started: the others see its mark, a file that
/// PostgreSQL removes when it starts.
fn say_once_what_that_costs(has_entry: bool) {
    thread_local! {
        static LOOKED: Cell<bool> = const { Cell::new(false) };
    }
    const MARK: &str = "base/pgsql_tmp/pgsql_tmp_pg_workflow";
    if LOOKED.replace(true) || fs::create_dir_all("base/pgsql_tmp").is_err() || fs::File::create_new(MARK).is_err() {
        return;
    }
    let (why, hint) = match (signals::is_possible(), has_entry) {
        (false, _) => ("is not in shared_preload_libraries", "Add pg_workflow to shared_preload_libraries and restart"),
        (true, true) => ("finds no free background worker for its notifier", "Raise max_worker_processes and restart"),
        (true, false) => {
            ("has notifiers in as many databases as it can", "Name in pg_workflow.databases those that need one")
        }
    };
    error::log(
        &format!(
            "pg_workflow {why}: every transaction that changes a state sends its own notifications, and the commits \
             of such transactions wait for each other"
        ),
        &format!("{hint}; or set pg_workflow.announce = off, and let readers poll."),
    );
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
