//! A witness that reads as a consumer, through a pooler in transaction mode, and waits in the procedure.
//!
//! Its statements use the simple protocol: an older PgBouncer does not know prepared statements.

use anyhow::Result;
use postgres::{Client, SimpleQueryMessage};
use std::collections::HashSet;

use super::event::Event;
use super::session::Session;
use super::witness::{Promise, Recorder, Witness};

const SMALL: usize = 3;

pub fn start(url: &str, name: &str) -> Result<Witness> {
    let mut session = Session::new(url, &format!("chaos reader {name}"))?;
    session.client()?.simple_query("SELECT workflow.create_consumer('witness', true)")?;
    Witness::start(name, Promise::AtLeastOnce, move |recorder| {
        recorder.is_ready();
        let mut known = Known::default();
        while !recorder.is_over() {
            if let Err(error) = step(&mut session, &mut known, recorder) {
                recorder.accepts(&mut session, &error);
            }
        }
        Ok(())
    })
}

/// What the client knows of the database's answers.
#[derive(Default)]
struct Known {
    acknowledged: HashSet<i64>,
    /// The response to a read was lost: the database may have returned more of the window than the client has got.
    may_have_been_returned: bool,
}

/// Reads and acknowledges a batch, or waits for one. A small batch is a part of its window: then the client first tries to
/// acknowledge more than was returned, which would skip events.
fn step(session: &mut Session, known: &mut Known, recorder: &mut Recorder) -> Result<()> {
    let client = session.client()?;
    let max = [SMALL, 300][usize::from(fastrand::bool())];
    let read = format!("SELECT pg_catalog.row_to_json(e) FROM workflow.read_events('witness', {max}) AS e");
    let was_lost = std::mem::replace(&mut known.may_have_been_returned, true);
    let rows = query(client, &read)?;
    // Without events the window has ended.
    known.may_have_been_returned = was_lost && !rows.is_empty();
    let Known { acknowledged, may_have_been_returned } = known;
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
    let acknowledge = |id: i64| format!("SELECT workflow.ack_events('witness', {id}::bigint)");
    if events.len() == SMALL && !*may_have_been_returned {
        let beyond = query(client, &acknowledge(last.id + fastrand::i64(1..20)));
        if let Err(error) = beyond.map_err(|error| (code_of(&error), error))
            && error.0.as_deref() != Some("22023")
        {
            return Err(error.1);
        }
    }
    query(client, &acknowledge(last.id))?;
    // Without a response they may be delivered again.
    acknowledged.extend(events.iter().map(|event| event.id));
    Ok(())
}

fn code_of(error: &anyhow::Error) -> Option<String> {
    Some(error.downcast_ref::<postgres::Error>()?.code()?.code().to_owned())
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
