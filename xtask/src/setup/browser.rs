//! The browser in which the page is tested. Without one everything else still runs.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{Missing, apt, can_install, instructions};
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
    if browser().is_some() {
        return Ok(());
    }
    if !can_install() {
        eprintln!("the tests of the page will be skipped: {}", instructions(&[Missing::Browser]));
        return Ok(());
    }
    apt::install(&[Missing::Browser])?;
    if browser().is_none() {
        bail!("installed, and still not found: chromium");
    }
    Ok(())
}
