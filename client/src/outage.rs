//! Outages, logged once when they begin and once when they end, and the pauses between attempts.
//!
//! backon retries a function; these loops keep a connection between attempts, so it would save only the doubling.

use std::time::{Duration, Instant};

use crate::Error;

/// The state of a server: available, or unavailable since some time.
#[derive(Debug)]
pub struct Outage {
    server: String,
    /// The start of the outage and the logged hint. A new hint is logged, too: the server can be up again but lack the
    /// extension.
    logged: Option<(Instant, &'static str)>,
}

impl Outage {
    /// Creates the record of an available server; `server` is its name in the log.
    pub fn of(server: impl Into<String>) -> Outage {
        Outage { server: server.into(), logged: None }
    }

    /// Logs that the server is unavailable, unless the log says so already.
    pub fn began(&mut self, error: &Error) {
        let hint = error.hint();
        let since = match self.logged {
            Some((_, logged)) if logged == hint => {
                return tracing::debug!("still cannot reach {}: {error}", self.server);
            }
            Some((since, _)) => since,
            None => Instant::now(),
        };
        self.logged = Some((since, hint));
        // A server that answers and rejects the request is reached.
        let verb = if error.is_rejection() { "use" } else { "reach" };
        tracing::warn!("cannot {verb} {}: {error}; retrying. {hint}.", self.server);
    }

    /// Logs that the server is available again, if it was not.
    pub fn ended(&mut self) {
        if let Some((since, _)) = self.logged.take() {
            tracing::info!("reconnected to {} after {:.1} s", self.server, since.elapsed().as_secs_f64());
        }
    }
}

/// The pause before the next attempt: 50 ms at first, doubled up to 1 s, of which a random part is left out. Programs that
/// lost the same server do not return in step.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LAST: Duration = Duration::from_secs(1);

    /// Starts with the shortest pause.
    pub const fn new() -> Backoff {
        Backoff(Backoff::FIRST)
    }

    /// Returns to the shortest pause.
    pub fn reset(&mut self) {
        self.0 = Backoff::FIRST;
    }

    /// Pauses, and doubles the next pause.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0.mul_f64(rand::random_range(0.5..1.0))).await;
        self.0 = (self.0 * 2).min(Backoff::LAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pauses_of_two_programs_differ() {
        let pause = async || {
            let (mut backoff, began) = (Backoff(Duration::from_millis(200)), Instant::now());
            backoff.wait().await;
            began.elapsed()
        };
        let pauses = futures_util::future::join_all((0..8).map(|_| pause())).await;
        let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*longest - *shortest > Duration::from_millis(10), "{pauses:?}");
    }
}
