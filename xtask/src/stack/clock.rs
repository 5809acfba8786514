//! A clock that a test can set, for the processes of a cluster: Debian's libfaketime, preloaded.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::scratch::Scratch;
use super::user;
use crate::setup;

/// A clock that is right until it is set.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    scratch: Scratch,
}

impl Clock {
    /// None if libfaketime is not installed.
    pub fn start() -> Result<Option<Self>> {
        let Some(library) = setup::clock() else { return Ok(None) };
        let this = Self { library, scratch: Scratch::new("clock")? };
        this.set_ahead(0)?;
        Ok(Some(this))
    }

    /// Sets it ahead of the right time, or behind it, by so many seconds.
    pub fn set_ahead(&self, seconds: i64) -> Result<()> {
        let file = self.file();
        let new = file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n"))?;
        user::give(&new, user::for_postgres()?.as_ref())?;
        // At once: every process reads it at every look at the clock.
        fs::rename(&new, &file).context("cannot set the clock")
    }

    /// The environment of the processes whose clock it is. Timers keep the pace of the system.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let (library, file) = (self.library.display().to_string(), self.file().display().to_string());
        let variables = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DISABLE_SHM", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    fn file(&self) -> PathBuf {
        self.scratch.path().join("offset")
    }
}
