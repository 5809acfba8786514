//! Followers, which store their position themselves.

use anyhow::{Context, Result};
use postgres::Client;
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use super::reader::{End, Reading, connect, rejection};
use crate::chaos::event::Event;
use crate::chaos::session::{Verdict, verdict};

/// The pause after an error, and between two small batches.
const PAUSE: Duration = Duration::from_millis(20);

/// The way in which a follower reads.
#[derive(Debug, Clone, Copy)]
pub enum Style {
    /// Large batches; the function waits.
    Prompt,
    /// Small batches, so that its positions are mostly within a window; the procedure waits.
    Slow,
}

impl Style {
    fn max(self) -> i32 {
        match self {
            Style::Prompt => 1000,
            Style::Slow => 7,
        }
    }
}

/// Starts a follower, which reads until it has the last event.
pub fn start(url: String, style: Style, end: End) -> JoinHandle<Result<Reading>> {
    std::thread::spawn(move || follow(&url, style, &end))
}

fn follow(url: &str, style: Style, end: &End) -> Result<Reading> {
    let mut reading = Reading::new(&format!("follower, {}", format!("{style:?}").to_lowercase()));
    let (mut session, mut position) = (None, None);
    while !end.is_reached(|last| reading.has(last)).with_context(|| reading.name.clone())? {
        let Err(error) = step(url, style, &mut session, &mut position, &mut reading) else { continue };
        if let Some(told) = rejection(&error) {
            reading.is_told(told);
            position = None;
            continue;
        }
        // Whatever it was: the position stays.
        session = None;
        if verdict(&error) != Some(Verdict::Unknown) {
            reading.complain(&format!("{error:?}"));
        }
        sleep(PAUSE);
    }
    Ok(reading)
}

fn step(
    url: &str,
    style: Style,
    session: &mut Option<Client>,
    position: &mut Option<String>,
    reading: &mut Reading,
) -> Result<()> {
    let client = match session {
        Some(client) => client,
        None => session.insert(connect(url, &format!("lossy {}", reading.name))?),
    };
    let Some(from) = position else {
        let now: String = client.query_one("SELECT workflow.current_position()", &[])?.get(0);
        reading.begin(client)?;
        *position = Some(now);
        return Ok(());
    };
    let wait = if matches!(style, Style::Prompt) { "1 s" } else { "0" };
    let sql = format!("SELECT {}, position FROM workflow.follow_events($1, $2, '{wait}')", Event::COLUMNS);
    let rows = client.query(&sql, &[from, &style.max()])?;
    reading.receive(rows.iter().map(Event::from_row));
    match rows.last() {
        Some(row) => *position = Some(row.get("position")),
        None => drop(client.query("CALL workflow.wait_for_events_after($1, '1 s', NULL)", &[from])?),
    }
    if matches!(style, Style::Slow) {
        sleep(PAUSE);
    }
    Ok(())
}
