//! A witness that listens to the NOTIFY channel of the events.

use anyhow::Result;
use fallible_iterator::FallibleIterator;
use postgres::Client;
use std::time::Duration;

use super::event::Event;
use super::session::Session;
use super::witness::{PAUSE, Promise, Recorder, Witness};

/// The time between two looks at whether the run is over.
const LOOK: Duration = Duration::from_millis(200);

pub fn start(url: &str, name: &str) -> Result<Witness> {
    let mut session = Session::new(url, &format!("chaos reader {name}"))?;
    Witness::start(name, Promise::WhileConnected, move |recorder| {
        while !recorder.is_over() {
            listen(session.client()?, recorder);
            session.reset();
            std::thread::sleep(PAUSE);
        }
        Ok(())
    })
}

/// Listens until the connection ends, or the run is over.
fn listen(client: &mut Client, recorder: &mut Recorder) {
    if client.batch_execute("LISTEN workflow_events").is_err() {
        return;
    }
    recorder.connects();
    recorder.is_ready();
    let mut notifications = client.notifications();
    while !recorder.is_over() {
        match notifications.timeout_iter(LOOK).next() {
            Ok(Some(notification)) => match Event::from_notification(notification.payload()) {
                Ok(event) => recorder.see(event),
                Err(error) => recorder.complain(format!("{error:#}")),
            },
            Ok(None) => (),
            Err(_) => return,
        }
    }
}
