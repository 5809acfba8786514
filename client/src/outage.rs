//! Outages: said once when they begin and once when they end.

use std::time::{Duration, Instant};

use crate::Error;

/// Whether a server is away.
pub struct Outage {
    server: String,
    /// Since when, and what the operator was told to do. When that changes (the server is up again but lacks the
    /// extension), it is worth another line.
    told: Option<(Instant, &'static str)>,
}

impl Outage {
    pub fn of(server: impl Into<String>) -> Outage {
        Outage { server: server.into(), told: None }
    }

    pub fn began(&mut self, error: &Error) {
        let advice = error.advice();
        let since = match self.told {
            Some((_, told)) if told == advice => return tracing::debug!("{} is still away: {error}", self.server),
            Some((since, _)) => since,
            None => Instant::now(),
        };
        self.told = Some((since, advice));
        tracing::warn!("{} is away: {error}. {advice}. Waiting for it", self.server);
    }

    pub fn ended(&mut self) {
        if let Some((since, _)) = self.told.take() {
            tracing::info!("{} is back after {:.1} s", self.server, since.elapsed().as_secs_f64());
        }
    }
}

/// How long to wait before the next attempt: short at first, then about a second.
pub struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LAST: Duration = Duration::from_secs(1);

    pub const fn new() -> Backoff {
        Backoff(Backoff::FIRST)
    }

    pub fn reset(&mut self) {
        self.0 = Backoff::FIRST;
    }

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Backoff::LAST);
    }
}
