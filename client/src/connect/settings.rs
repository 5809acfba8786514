//! Settings of connections, whatever the defaults of the database and of the role are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Config;

use crate::Error;

/// A statement whose client is gone ends, rather than run to its end.
const END_WITH_CLIENT: (&str, &str) = ("client_connection_check_interval", "1s");
/// What readers of the feed, the relay and workflow-server rely on.
const FIXED: [(&str, &str); 6] = [
    ("default_transaction_isolation", "read committed"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("standard_conforming_strings", "on"),
    ("row_security", "on"),
    ("jit", "off"),
];

/// The settings of a server's connections.
#[derive(Clone, Default)]
pub struct Settings {
    are_fixed: bool,
    /// The server is a pooler that rejects `options` (PgBouncer), shared by all who connect to it.
    lacks_options: Arc<AtomicBool>,
}

impl Settings {
    pub fn fix(&mut self) {
        self.are_fixed = true;
    }

    /// Returns the configuration with these settings: they are there from the start, and leave nothing in a pooler.
    pub fn options(&self, config: &Config) -> Config {
        if self.lacks_options.load(Ordering::Relaxed) {
            return config.clone();
        }
        let fixed = if self.are_fixed { FIXED.as_slice() } else { &[] };
        let mut options = config.get_options().unwrap_or_default().to_owned();
        for (name, value) in [END_WITH_CLIENT].iter().chain(fixed) {
            options.push_str(&format!(" -c {name}={}", value.replace(' ', "\\ ")));
        }
        config.clone().options(options.trim_start()).clone()
    }

    /// Returns whether a pooler rejected the settings; remembers it.
    pub fn are_refused_by(&self, error: &Error) -> bool {
        let is_refused =
            error.code().is_some_and(|code| code.code() == "08P01") && error.to_string().contains("options");
        self.lacks_options.fetch_or(is_refused, Ordering::Relaxed);
        is_refused
    }

    /// Returns the statements that set them instead, if the server does not take options.
    pub fn statements(&self) -> Option<String> {
        let is_needed = self.are_fixed && self.lacks_options.load(Ordering::Relaxed);
        is_needed.then(|| FIXED.map(|(name, value)| format!("SET {name} = '{value}'")).join("; "))
    }
}
