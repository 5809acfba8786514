//! Delivery of events to the handler: one after another, each until the handler succeeds.

use std::fmt::Display;
use std::pin::pin;
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::{ACKNOWLEDGE_INTERVAL, Source};
use crate::Error;
use crate::event::Event;
use crate::outage::Backoff;

const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The result of one call of the handler.
enum Attempt<E> {
    Handled,
    Failed(E),
}

pub struct Delivery<'a, H> {
    handler: &'a H,
    shutdown: &'a CancellationToken,
    acknowledged_at: Instant,
    reported_at: Instant,
    /// Events since the last report.
    count: u64,
}

impl<'a, H, F, E> Delivery<'a, H>
where
    H: Fn(Event) -> F,
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    pub fn new(handler: &'a H, shutdown: &'a CancellationToken) -> Delivery<'a, H> {
        let now = Instant::now();
        Delivery { handler, shutdown, acknowledged_at: now, reported_at: now, count: 0 }
    }

    /// Delivers events until all are handled, `shutdown`, or the source fails.
    pub async fn deliver(&mut self, events: Vec<Event>, source: &mut Source) -> Result<(), Error> {
        for event in events {
            if !self.until_handled(&event, source).await? {
                return Ok(());
            }
            source.handled(&event);
            self.report(&event);
            if self.acknowledged_at.elapsed() >= ACKNOWLEDGE_INTERVAL {
                source.acknowledge().await?;
                self.acknowledged_at = Instant::now();
            }
        }
        Ok(())
    }

    /// Returns false at `shutdown`.
    async fn until_handled(&mut self, event: &Event, source: &mut Source) -> Result<bool, Error> {
        let mut backoff = Backoff::new();
        let mut attempts = 0;
        while !self.shutdown.is_cancelled() {
            attempts += 1;
            let Attempt::Failed(error) = self.attempt(event, source).await? else {
                if attempts > 1 {
                    tracing::info!("the handler succeeded with event {} at attempt {attempts}", event.id);
                }
                return Ok(true);
            };
            let Event { id, entity_type, entity_id, version, .. } = event;
            if attempts == 1 {
                tracing::warn!(
                    "the handler failed with event {id} ({entity_type} {entity_id}, version {version}): {error}; \
                     retrying until it succeeds"
                );
            } else {
                tracing::debug!("the handler failed again with event {id}: {error}");
            }
            let _ = self.shutdown.run_until_cancelled(backoff.wait()).await;
        }
        Ok(false)
    }

    /// Calls the handler once, and keeps the source's lease meanwhile. Always waits for the handler. An error is one of
    /// the source; the event is then redelivered.
    async fn attempt(&mut self, event: &Event, source: &mut Source) -> Result<Attempt<E>, Error> {
        let handler = self.handler;
        let mut handling = pin!(handler(event.clone()));
        loop {
            match tokio::time::timeout(ACKNOWLEDGE_INTERVAL, &mut handling).await {
                Ok(Ok(())) => return Ok(Attempt::Handled),
                Ok(Err(error)) => return Ok(Attempt::Failed(error)),
                Err(_) => {
                    self.acknowledged_at = Instant::now();
                    if let Err(error) = source.acknowledge().await {
                        let _ = handling.await;
                        return Err(error);
                    }
                }
            }
        }
    }

    fn report(&mut self, event: &Event) {
        self.count += 1;
        if self.reported_at.elapsed() >= REPORT_INTERVAL {
            let (count, lag) = (self.count, (Utc::now() - event.changed_at).as_seconds_f64());
            tracing::debug!("delivered {count} events, the last {lag:.3} s after it was recorded");
            (self.count, self.reported_at) = (0, Instant::now());
        }
    }
}
