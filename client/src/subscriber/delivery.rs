//! Delivery events over, one after another, each until the handler succeeds.

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

pub struct Delivery<'a, H> {
    handler: &'a H,
    shutdown: &'a CancellationToken,
    acknowledged_at: Instant,
    reported_at: Instant,
    /// Since the last report.
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

    /// Until all are handled, it is time to stop, or nothing can be acknowledged.
    pub async fn hand_over(&mut self, events: Vec<Event>, source: &mut Source) -> Result<(), Error> {
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

    /// False where it is time to stop.
    async fn until_handled(&mut self, event: &Event, source: &mut Source) -> Result<bool, Error> {
        let mut backoff = Backoff::new();
        let mut attempts = 0;
        while !self.shutdown.is_cancelled() {
            attempts += 1;
            let Err(error) = self.handle(event, source).await? else {
                if attempts > 1 {
                    tracing::info!("event {} was handled at attempt {attempts}", event.id);
                }
                return Ok(true);
            };
            let Event { id, entity_type, entity_id, version, .. } = event;
            if attempts == 1 {
                tracing::warn!(
                    "the handler failed with event {id} ({entity_type} {entity_id}, version {version}): {error}. \
                     It is called again until it succeeds"
                );
            } else {
                tracing::debug!("the handler failed again with event {id}: {error}");
            }
            let _ = self.shutdown.run_until_cancelled(backoff.wait()).await;
        }
        Ok(false)
    }

    /// One attempt. Meanwhile the source is told that we are there. The handler is always waited for; an error is that
    /// the source has failed, and then the event comes again.
    async fn handle(&mut self, event: &Event, source: &mut Source) -> Result<Result<(), E>, Error> {
        let handler = self.handler;
        let mut handling = pin!(handler(event.clone()));
        loop {
            match tokio::time::timeout(ACKNOWLEDGE_INTERVAL, &mut handling).await {
                Ok(outcome) => return Ok(outcome),
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
            tracing::debug!("{count} events handed over, the last {lag:.3} s after it happened");
            (self.count, self.reported_at) = (0, Instant::now());
        }
    }
}
