//! A witness that reads as a consumer, through a pooler in transaction mode, and waits in the procedure.
//!
//! Its statements use the simple protocol: an older PgBouncer does not know prepared statements.

use anyhow::Result;
use postgres::{Client, SimpleQueryMessage};
use std::collections::HashSet;

use super::event::Event;
use super::session::Session;
use super::witness::{Promise, Recorder, Witness};

pub fn start(url: &str, name: &str) -> Result<Witness> {
    let mut session = Session::new(url, &format!("chaos reader {name}"))?;
    session.client()?.simple_query("SELECT workflow.create_consumer('witness', true)")?;
    Witness::start(name, Promise::AtLeastOnce, move |recorder| {
        recorder.is_ready();
        let mut acknowledged = HashSet::new();
        while !recorder.is_over() {
            if let Err(error) = step(&mut session, &mut acknowledged, recorder) {
                recorder.accepts(&mut session, &error);
            }
        }
        Ok(())
    })
}

/// Reads and acknowledges a batch, or waits for one.
fn step(session: &mut Session, acknowledged: &mut HashSet<i64>, recorder: &mut Recorder) -> Result<()> {
    let client = session.client()?;
    let rows = query(client, "SELECT pg_catalog.row_to_json(e) FROM workflow.read_events('witness', 300) AS e")?;
    let events = rows.iter().map(|json| Event::from_json(json)).collect::<Result<Vec<_>>>()?;
    for event in &events {
        recorder.see(*event);
        if acknowledged.contains(&event.id) {
            recorder.complain(format!("event {} is delivered again after its acknowledgment", event.id));
        }
    }
    let Some(last) = events.last() else {
        query(client, "CALL workflow.wait_for_events('witness', interval '0.5 s')")?;
        return Ok(());
    };
    query(client, &format!("SELECT workflow.ack_events('witness', {}::bigint)", last.id))?;
    // Without a response they may be delivered again.
    acknowledged.extend(events.iter().map(|event| event.id));
    Ok(())
}

/// Returns the first column.
fn query(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    let messages = client.simple_query(sql)?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    Ok(rows.collect())
}
