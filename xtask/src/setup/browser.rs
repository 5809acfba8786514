//! The browser in which the page is tested. Without one everything else still runs.

use std::path::PathBuf;

use anyhow::Result;

use super::{Missing, ensure_optional};
use crate::command::which;

/// The one that BROWSER_BIN names, else the first of these in PATH.
pub fn browser() -> Option<PathBuf> {
    match std::env::var_os("BROWSER_BIN") {
        Some(named) => Some(named.into()),
        None => ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(which),
    }
}

/// Installs a browser where there is none: on Debian, as root. Elsewhere it says what to install, and that is all.
pub fn ensure_browser() -> Result<()> {
    ensure_optional(Missing::Browser, "the tests of the page", || browser().is_some()).map(drop)
}
