//! A follower over HTTP, which works as a browser does.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use super::reader::{End, Reading, connect};
use crate::PATIENCE;
use crate::chaos::event::Event;

const PATH: &str = "/api/v1/events";
const PAUSE: Duration = Duration::from_millis(50);

/// Starts it; it reads until it has the last event.
pub fn start(address: String, database_url: String, end: End) -> JoinHandle<Result<Reading>> {
    std::thread::spawn(move || {
        let client = Client { address, database_url, end, last_id: None, reading: Reading::new("SSE client") };
        client.follow()
    })
}

struct Client {
    address: String,
    /// For the states that a new follower reads.
    database_url: String,
    end: End,
    last_id: Option<String>,
    reading: Reading,
}

impl Client {
    fn follow(mut self) -> Result<Reading> {
        while !self.is_over()? {
            // The server ends the stream if it loses the database.
            if self.receive().is_err() {
                sleep(PAUSE);
            }
        }
        Ok(self.reading)
    }

    fn is_over(&self) -> Result<bool> {
        self.end.is_reached(|last| self.reading.has(last)).context("SSE client")
    }

    /// Reads one response to its end.
    fn receive(&mut self) -> Result<()> {
        let resume = self.last_id.as_ref().map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let mut response = Response::to(&self.address, PATH, &resume)?;
        match response.status {
            200 => self.read_messages(&mut response),
            400 => {
                let body = response.body()?;
                if !body.contains("last_event_id") || !body.contains("omit it") {
                    self.reading.complain(&body);
                }
                self.reading.is_told(body);
                self.last_id = None;
                Ok(())
            }
            // The server has no database, or not yet.
            503 => bail!("unavailable"),
            status => {
                let body = response.body()?;
                self.reading.complain(&format!("{status}: {body}"));
                bail!("{status}")
            }
        }
    }

    fn read_messages(&mut self, response: &mut Response) -> Result<()> {
        let mut is_new = self.last_id.is_none();
        // After a break, part of a batch is repeated: its events count once their id has arrived.
        let mut batch = Vec::new();
        while !self.is_over()? {
            let Some(line) = response.line()? else { continue };
            if let Some(id) = line.strip_prefix("id:") {
                self.last_id = Some(id.trim().to_owned());
                self.reading.receive(batch.drain(..));
            } else if let Some(data) = line.strip_prefix("data:") {
                batch.push(Event::from_json(data.trim())?);
            }
            if is_new && self.last_id.is_some() {
                self.begin()?;
                is_new = false;
            }
        }
        Ok(())
    }

    /// Reads the states once it has a position.
    fn begin(&mut self) -> Result<()> {
        let mut states = || Ok(self.reading.begin(&mut connect(&self.database_url, "lossy SSE client")?)?);
        while let Err(error) = states() {
            let _: anyhow::Error = error;
            sleep(PAUSE);
        }
        Ok(())
    }
}

/// A response, read line by line.
struct Response {
    status: u16,
    lines: BufReader<TcpStream>,
    /// The line so far.
    partial: Vec<u8>,
}

impl Response {
    /// Sends a GET request, and reads the headers.
    fn to(address: &str, path: &str, headers: &str) -> Result<Response> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0: no chunks between the lines.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n")?;
        let mut response = Response { status: 0, lines: BufReader::new(stream), partial: Vec::new() };
        let first = response.line()?.context("no status")?;
        response.status = first.split(' ').nth(1).context("no status")?.parse()?;
        while !response.line()?.context("no end of the headers")?.is_empty() {}
        // So that its reader can look at the clock.
        response.lines.get_ref().set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(response)
    }

    /// Returns the next line; `None` if there is none yet.
    fn line(&mut self) -> Result<Option<String>> {
        match self.lines.read_until(b'\n', &mut self.partial) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
            read => drop(read?),
        }
        ensure!(self.partial.ends_with(b"\n"), "the response has ended");
        let line = String::from_utf8(std::mem::take(&mut self.partial))?;
        Ok(Some(line.trim_end().to_owned()))
    }

    fn body(&mut self) -> Result<String> {
        self.lines.get_ref().set_read_timeout(Some(PATIENCE))?;
        let mut body = String::new();
        self.lines.read_to_string(&mut body)?;
        Ok(body)
    }
}

/// Sends a GET request with a token, and returns the status and the body.
pub fn get(address: &str, path: &str, token: &str) -> Result<(u16, String)> {
    let mut response = Response::to(address, path, &format!("Authorization: Bearer {token}\r\n"))?;
    Ok((response.status, response.body()?))
}
