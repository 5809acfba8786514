//! The browser in which the web UI is tested. Without one all other tests still run.

use std::path::PathBuf;

use anyhow::Result;

use super::{Missing, ensure_optional};
use crate::command::which;

/// The browser that BROWSER_BIN names, else the first of these in PATH.
pub fn browser() -> Option<PathBuf> {
    match std::env::var_os("BROWSER_BIN") {
        Some(named) => Some(named.into()),
        None => ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(which),
    }
}

/// Installs a browser if none is installed: on Debian, as root. Elsewhere it prints what to install.
pub fn ensure_browser() -> Result<()> {
    ensure_optional(Missing::Browser, "the tests of the web UI", || browser().is_some()).map(drop)
}
