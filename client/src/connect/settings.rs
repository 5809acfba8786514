//! Settings of connections, whatever the defaults of the database and of the role are.
//!
//! They are sent when a connection begins, as `options`. PgBouncer rejects these, or drops them in silence if its
//! `ignore_startup_parameters` says so. SET would change the sessions that it lends to others, too: behind a pooler each
//! transaction sets them for itself.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::{Config, SimpleQueryMessage};

use crate::Error;

/// A statement whose client is gone ends, rather than run to its end.
const END_WITH_CLIENT: (&str, &str) = ("client_connection_check_interval", "1s");
const ISOLATION: &str = "default_transaction_isolation";
/// What readers of the feed, the relay and workflow-server rely on.
const FIXED: [(&str, &str); 6] = [
    (ISOLATION, "read committed"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("standard_conforming_strings", "on"),
    ("row_security", "on"),
    ("jit", "off"),
];
/// A setting without a meaning for the server: a session that has this value of it has the others, too.
const MARK: &str = "workflow_client.settings";

/// The settings of a server's connections.
#[derive(Clone, Default)]
pub struct Settings {
    values: Vec<(String, String)>,
    is_read_only: bool,
    /// The server is a pooler that does not pass `options` on. All copies share what one connection has learned.
    lacks_options: Arc<AtomicBool>,
}

impl Settings {
    pub fn fix(&mut self) {
        FIXED.iter().for_each(|(name, value)| self.set(name, value));
    }

    /// Sets one, in place of an earlier value.
    pub fn set(&mut self, name: &str, value: &str) {
        self.values.retain(|(known, _)| known != name);
        self.values.push((name.to_owned(), value.to_owned()));
    }

    pub fn set_read_only(&mut self) {
        self.is_read_only = true;
    }

    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Returns the configuration with these settings.
    pub fn options(&self, config: &Config) -> Config {
        if self.lacks_options.load(Ordering::Relaxed) {
            return config.clone();
        }
        let mut options = config.get_options().unwrap_or_default().to_owned();
        for (name, value) in self.all() {
            let _ = write!(options, " -c {name}={}", value.replace('\\', "\\\\").replace(' ', "\\ "));
        }
        let _ = write!(options, " -c {MARK}={}", self.mark());
        config.clone().options(options.trim_start()).clone()
    }

    /// Returns whether a pooler rejected the settings; remembers it.
    pub fn are_refused_by(&self, error: &Error) -> bool {
        let is_refused =
            error.code().is_some_and(|code| code.code() == "08P01") && error.to_string().contains("options");
        if is_refused {
            self.remember_pooler();
        }
        is_refused
    }

    /// Returns whether the session of a connection has the settings; remembers if not.
    pub async fn have_arrived(&self, client: &tokio_postgres::Client) -> Result<bool, tokio_postgres::Error> {
        if self.lacks_options.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let sql = format!("SELECT pg_catalog.current_setting('{MARK}', true)");
        let found = client.simple_query(&sql).await?;
        let have_arrived = found.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0) == Some(self.mark().as_str()),
            _ => false,
        });
        if !have_arrived {
            self.remember_pooler();
        }
        Ok(have_arrived)
    }

    /// Returns the statements that set them for one transaction; `None` if there is nothing to rely on.
    pub fn of_transaction(&self) -> Option<String> {
        if self.values.is_empty() && !self.is_read_only {
            return None;
        }
        let mut statements = String::new();
        if self.is_read_only {
            statements.push_str("SET TRANSACTION READ ONLY; ");
        }
        for (name, value) in self.all() {
            let _ = match name {
                ISOLATION => write!(statements, "SET TRANSACTION ISOLATION LEVEL {value}; "),
                name => write!(statements, "SET LOCAL {name} = '{}'; ", value.replace('\'', "''")),
            };
        }
        Some(statements)
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        std::iter::once(END_WITH_CLIENT).chain(own)
    }

    fn mark(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.values.hash(&mut hasher);
        format!("{:x}", hasher.finish())
    }

    fn remember_pooler(&self) {
        if !self.lacks_options.swap(true, Ordering::Relaxed) {
            tracing::info!("connecting through a pooler: each transaction sets what it needs");
        }
    }
}
