//! A connection to the database that is restored after errors, and the meaning of its errors.

use anyhow::{Context, Result, ensure};
use postgres::{Client, Config, NoTls};
use std::fmt;
use std::time::{Duration, Instant};

/// The longest time that the database may be unavailable before the run fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// The meaning of an error for its statement or commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No response: the statement may have been executed or not.
    Unknown,
    /// Not executed: another client was first.
    Conflict,
    /// Not executed, for no good reason.
    Wrong,
}

/// A statement found an entity at another version than its only writer knows.
#[derive(Debug)]
pub struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entity has another version")
    }
}

impl std::error::Error for Stale {}

/// Returns `None` if the error is not from the database but a timeout of this session.
pub fn verdict(error: &anyhow::Error) -> Option<Verdict> {
    if error.is::<Stale>() {
        return Some(Verdict::Conflict);
    }
    error.downcast_ref().map(verdict_of_database)
}

fn verdict_of_database(error: &postgres::Error) -> Verdict {
    match error.as_db_error().map(|error| error.code().code()) {
        // The database is stopping, starting, crashed or full, or has ended the connection.
        None => Verdict::Unknown,
        Some(code) if code.starts_with("57") || code.starts_with("08") || code.starts_with("53") => Verdict::Unknown,
        // A former primary that is a standby now.
        Some("25006") => Verdict::Unknown,
        Some("40001" | "40P01") => Verdict::Conflict,
        Some(_) => Verdict::Wrong,
    }
}

/// A session that connects on demand.
pub struct Session {
    config: Config,
    client: Option<Client>,
}

impl Session {
    /// `url` may have several hosts; the session uses the one that accepts writes.
    pub fn new(url: &str, application_name: &str) -> Result<Session> {
        let mut config: Config = url.parse()?;
        config.application_name(application_name).connect_timeout(Duration::from_secs(3));
        Ok(Session { config, client: None })
    }

    /// Sets a setting of each connection.
    pub fn with_setting(mut self, name: &str, value: &str) -> Session {
        let others = self.config.get_options().unwrap_or_default().to_owned();
        self.config.options(&format!("{others} -c {name}={value}"));
        self
    }

    /// Returns the connection, or waits for the database and opens one.
    pub fn client(&mut self) -> Result<&mut Client> {
        let deadline = Instant::now() + PATIENCE;
        while self.client.as_ref().is_none_or(Client::is_closed) {
            match self.config.connect(NoTls) {
                Ok(client) => self.client = Some(client),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context("the database stays unavailable");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        self.client.as_mut().context("just connected")
    }

    /// Drops the connection.
    pub fn reset(&mut self) {
        self.client = None;
    }

    /// Repeats work that may run twice until there is a response.
    pub fn insist<T>(&mut self, mut work: impl FnMut(&mut Client) -> Result<T, postgres::Error>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match work(self.client()?) {
                Err(error) if verdict_of_database(&error) == Verdict::Unknown => self.reset(),
                result => return Ok(result?),
            }
            ensure!(Instant::now() < deadline, "the database does not respond");
        }
    }
}
