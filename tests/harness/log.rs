//! The log of a thread, for `tracing_subscriber`.

use std::io;
use std::sync::{Arc, Mutex};

/// Text that was logged.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// How often a text was logged.
    pub fn count(&self, text: &str) -> usize {
        self.text().matches(text).count()
    }

    pub fn has(&self, text: &str) -> bool {
        self.text().contains(text)
    }
}
