//! A witness that follows the events over HTTP, as a browser does: from one server, and after a break from the other.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::event::Event;
use super::witness::{PAUSE, Promise, Recorder, Witness};

/// The time without a line after which the client connects again.
const SILENCE: Duration = Duration::from_secs(3);

/// Starts it on servers at these addresses.
pub fn start(servers: [SocketAddr; 2], name: &str) -> Result<Witness> {
    Witness::start(name, Promise::ExactlyOnce, move |recorder| {
        let mut last_id = None;
        for server in servers.iter().cycle() {
            // The end of the connection is normal; a response that is not has been recorded.
            let _ = follow(*server, &mut last_id, recorder);
            if recorder.is_over() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    })
}

/// Follows until the connection ends, or the run is over.
fn follow(server: SocketAddr, last_id: &mut Option<String>, recorder: &mut Recorder) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let resume = last_id.as_ref().map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
    // HTTP/1.0: no chunks between the lines.
    write!(stream, "GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n{resume}\r\n")?;
    let mut lines = BufReader::new(stream);
    let status = line(&mut lines)?;
    if !status.contains(" 200 ") {
        if !status.contains(" 503 ") {
            recorder.complain(format!("{status}, Last-Event-ID {last_id:?}"));
            *last_id = None;
        }
        bail!("{status}");
    }
    while !line(&mut lines)?.is_empty() {}
    // Part of a batch is repeated: its events count once their id has arrived.
    let mut batch = Vec::new();
    while !recorder.is_over() {
        let line = line(&mut lines)?;
        if let Some(id) = line.strip_prefix("id: ") {
            *last_id = Some(id.to_owned());
            batch.drain(..).for_each(|event| recorder.see(event));
            recorder.is_ready();
        } else if let Some(json) = line.strip_prefix("data: ") {
            batch.push(Event::from_json(json).context("an SSE message").inspect_err(|error| {
                recorder.complain(format!("{error:#}"));
            })?);
        }
    }
    Ok(())
}

fn line(lines: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    ensure!(lines.read_line(&mut line)? > 0, "the stream has ended");
    Ok(line.trim_end().to_owned())
}
