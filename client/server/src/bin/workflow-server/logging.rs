//! The log.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::output::Color;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Parses a level, or levels by module (`info,hyper=warn`). The parser of the library takes a word that is no level for a
/// module, and then logs nothing else.
pub fn parse_levels(text: &str) -> Result<Targets, String> {
    // An environment file that leaves the variable empty means the default.
    let text = if text.trim().is_empty() { "info" } else { text };
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    for part in &parts {
        let level = part.rsplit_once('=').map_or(*part, |(_, level)| level);
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!("{level:?} is not a log level; expected {} or MODULE=LEVEL", LEVELS.join(", ")));
        }
    }
    parts.join(",").parse().map_err(|error| format!("{error}"))
}

/// Writes the log to standard error.
pub fn start(levels: Targets, format: LogFormat, color: Color) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format = match format {
        LogFormat::Text => {
            lines.with_ansi(color.applies_to(std::io::stderr().is_terminal())).with_target(false).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(format).with(levels).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_level_are_rejected() {
        for good in ["info", "WARN", "", " ", "off", "info,hyper=debug", "pg_workflow_client::relay=trace, warn"] {
            assert!(parse_levels(good).is_ok(), "{good}");
        }
        for bad in ["warning", "verbose", "trace,", "hyper", "hyper=loud", "=", "1"] {
            assert!(parse_levels(bad).is_err(), "{bad}");
        }
    }
}
