//! A consumer that writes each event into a table of the same database, in the transaction that acknowledges it.

use anyhow::{Context, Result};
use postgres::Client;
use std::thread::{JoinHandle, sleep};
use std::time::Duration;
use uuid::Uuid;

use super::reader::{End, connect};
use crate::chaos::event::Event;
use crate::chaos::session::{Verdict, verdict};

/// Creates the consumer and its table.
pub fn setup() -> String {
    let columns = Event::COLUMNS;
    format!(
        "SELECT workflow.create_consumer('reader', true);
         CREATE TABLE public.seen AS SELECT {columns} FROM workflow.state_history WITH NO DATA;
         ALTER TABLE public.seen ADD n bigserial PRIMARY KEY;"
    )
}

/// Starts it; it reads until it has the last event, and returns the errors that it must never get.
pub fn start(url: String, end: End) -> JoinHandle<Result<Vec<String>>> {
    std::thread::spawn(move || consume(&url, &end))
}

fn consume(url: &str, end: &End) -> Result<Vec<String>> {
    let (mut session, mut last, mut complaints) = (None, Uuid::nil(), Vec::new());
    while !end.is_reached(|entity| entity == last).context("consumer")? {
        let Err(error) = step(url, &mut session, &mut last) else { continue };
        session = None;
        if verdict(&error) != Some(Verdict::Unknown) {
            complaints.push(format!("consumer: {error:?}"));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(complaints)
}

fn step(url: &str, session: &mut Option<Client>, last: &mut Uuid) -> Result<()> {
    let client = match session {
        Some(client) => client,
        None => session.insert(connect(url, "lossy consumer")?),
    };
    let columns = Event::COLUMNS;
    let mut transaction = client.transaction()?;
    let sql = format!(
        "INSERT INTO public.seen SELECT {columns} FROM workflow.read_events('reader', 50) ORDER BY id
         RETURNING id, entity_id"
    );
    let rows = transaction.query(&sql, &[])?;
    let Some(row) = rows.last() else {
        transaction.commit()?;
        client.query("CALL workflow.wait_for_events('reader', '1 s', NULL)", &[])?;
        return Ok(());
    };
    transaction.query("SELECT workflow.ack_events('reader', $1)", &[&row.get::<_, i64>(0)])?;
    transaction.commit()?;
    *last = row.get(1);
    Ok(())
}

/// Reads the table.
pub fn seen(client: &mut Client) -> Result<Vec<Event>> {
    let rows = client.query(&format!("SELECT {} FROM public.seen ORDER BY n", Event::COLUMNS), &[])?;
    Ok(rows.iter().map(Event::from_row).collect())
}
