//! A witness that follows the feed from a position of its own, in one isolation level. It waits in the procedure.

use anyhow::Result;
use postgres::{Client, IsolationLevel};

use super::event::Event;
use super::session::Session;
use super::witness::{Promise, Recorder, Witness};

const BATCH: i32 = 300;
pub fn start(url: &str, name: &str, level: IsolationLevel) -> Result<Witness> {
    let mut session = Session::new(url, &format!("chaos reader {name}"))?;
    Witness::start(name, Promise::ExactlyOnce, move |recorder| {
        let mut position = None;
        while !recorder.is_over() {
            if let Err(error) = step(&mut session, level, &mut position, recorder)
                && !recorder.accepts(&mut session, &error)
            {
                // A position that is rejected is no longer used, as its reader would do.
                position = None;
            }
        }
        Ok(())
    })
}

/// Reads the next events. The position moves with the events: the client has both or none.
fn step(
    session: &mut Session,
    level: IsolationLevel,
    position: &mut Option<String>,
    recorder: &mut Recorder,
) -> Result<()> {
    let client = session.client()?;
    let Some(here) = position else {
        *position = Some(client.query_one("SELECT workflow.current_position()", &[])?.get(0));
        recorder.is_ready();
        return Ok(());
    };
    let (events, next) = read(client, level, here)?;
    events.iter().for_each(|event| recorder.see(*event));
    match next {
        Some(next) => *position = Some(next),
        None => drop(client.execute("CALL workflow.wait_for_events_after($1, interval '0.5 s')", &[here])?),
    }
    Ok(())
}

/// Reads in a transaction of its own. Returns the events, and the position after them if there are any.
fn read(client: &mut Client, level: IsolationLevel, position: &str) -> Result<(Vec<Event>, Option<String>)> {
    let sql = format!("SELECT {}, \"position\" FROM workflow.follow_events($1, $2)", Event::COLUMNS);
    let mut transaction = client.build_transaction().isolation_level(level).start()?;
    let rows = transaction.query(&sql, &[&position, &BATCH])?;
    transaction.commit()?;
    let next = rows.last().and_then(|row| row.get("position"));
    Ok((rows.iter().map(Event::from_row).collect(), next))
}
