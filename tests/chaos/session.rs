//! A connection to the database that comes back, and what its errors mean.

use anyhow::{Context, Result, ensure};
use postgres::{Client, Config, NoTls};
use std::fmt;
use std::time::{Duration, Instant};

/// How long a database may be away altogether before the run is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What an error says about the statement, or the commit, that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No answer: it may have been done or not.
    Unknown,
    /// Not done: somebody else was first.
    Refused,
    /// Not done, and there is no good reason.
    Wrong,
}

/// A statement of our own that found an entity in another state than its only writer had left it in.
#[derive(Debug)]
pub struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entity has another version")
    }
}

impl std::error::Error for Stale {}

/// None: not an answer of the database, but the end of our patience with it.
pub fn verdict(error: &anyhow::Error) -> Option<Verdict> {
    if error.is::<Stale>() {
        return Some(Verdict::Refused);
    }
    error.downcast_ref().map(verdict_of_database)
}

fn verdict_of_database(error: &postgres::Error) -> Verdict {
    match error.as_db_error().map(|error| error.code().code()) {
        // It is stopping, starting, has crashed, or has no room; or it ended the connection.
        None => Verdict::Unknown,
        Some(code) if code.starts_with("57") || code.starts_with("08") || code.starts_with("53") => Verdict::Unknown,
        // A primary that is a standby by now.
        Some("25006") => Verdict::Unknown,
        Some("40001" | "40P01") => Verdict::Refused,
        Some(_) => Verdict::Wrong,
    }
}

/// Connects when it must.
pub struct Session {
    config: Config,
    client: Option<Client>,
}

impl Session {
    /// `url` may name several hosts: the one that takes writes is meant.
    pub fn new(url: &str, application_name: &str) -> Result<Session> {
        let mut config: Config = url.parse()?;
        config.application_name(application_name).connect_timeout(Duration::from_secs(3));
        Ok(Session { config, client: None })
    }

    /// The connection; a new one where there is none. Waits for the database.
    pub fn client(&mut self) -> Result<&mut Client> {
        let deadline = Instant::now() + PATIENCE;
        while self.client.as_ref().is_none_or(Client::is_closed) {
            match self.config.connect(NoTls) {
                Ok(client) => self.client = Some(client),
                Err(error) if Instant::now() >= deadline => return Err(error).context("the database stays away"),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        self.client.as_mut().context("just connected")
    }

    /// Forgets the connection.
    pub fn reset(&mut self) {
        self.client = None;
    }

    /// Does something that can be done twice, as often as it takes to get an answer.
    pub fn insist<T>(&mut self, mut work: impl FnMut(&mut Client) -> Result<T, postgres::Error>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match work(self.client()?) {
                Err(error) if verdict_of_database(&error) == Verdict::Unknown => self.reset(),
                answer => return Ok(answer?),
            }
            ensure!(Instant::now() < deadline, "the database does not answer for good");
        }
    }
}
