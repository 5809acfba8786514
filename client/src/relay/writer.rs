//! What goes into the store, from a checkpoint on.

use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::{Stream, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::{Failure, Log, Shown, Status, publishing};
use crate::Error;
use crate::connect::STATEMENT_TIMEOUT;
use crate::event::Event;
use crate::feed::Feed;
use crate::publisher::{EventIds, Position, Published, Publisher};

/// Events read at once. Larger batches drain a backlog no faster.
const BATCH: i32 = 2_000;
/// Events are published when they amount to this, so that a batch of large ones need not fit into memory.
const CHUNK_BYTES: usize = 1 << 20;
/// What an event takes beside its metadata, about.
const EVENT_BYTES: usize = 400;
/// How long the database waits for an event before it says that there is none. Both servers are then seen to be there.
const POLL: Duration = Duration::from_secs(1);
/// Events that come one by one are dear. Where many come, the relay waits for more: as many tenths of a millisecond as
/// there were in the last batch, up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// How often to save a checkpoint: what came after the last is read back from the store when a relay begins.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// Where nothing will be read back from the store.
const NOTHING_TO_KEEP: Position = [i64::MAX; 2];

/// Why a writer stopped.
pub enum Ended {
    Told,
    StoreEndsAt(Position),
}

/// From a checkpoint on, what goes into the store.
pub struct Writer {
    /// Where the store ends; none where it cannot tell.
    pub last: Option<Position>,
    /// Events after the checkpoint that are in the store already.
    known: EventIds,
    /// How many windows of the feed can still hold some of those: the one that is open at the checkpoint, and the next,
    /// which is opened after they were written.
    windows: u8,
    /// Read, in the store, and not acknowledged yet.
    unacknowledged: Option<i64>,
    checkpoint: Option<Position>,
    checkpoint_at: Instant,
    trimmed_at: Instant,
}

impl Writer {
    pub async fn begin<P: Publisher>(feed: &Feed, publisher: &mut P) -> Result<Writer, Failure> {
        let last = publishing(publisher.position()).await?;
        let (checkpoint, known) = match last {
            Some(last) => {
                let (checkpoint, known) = compare(feed, publisher, last).await?;
                (Some(checkpoint), known)
            }
            None => (None, EventIds::default()),
        };
        let now = Instant::now();
        Ok(Writer { last, known, windows: 2, unacknowledged: None, checkpoint, checkpoint_at: now, trimmed_at: now })
    }

    pub async fn run<P: Publisher>(
        &mut self,
        feed: &Feed,
        publisher: &mut P,
        log: &mut Log,
        shutdown: &CancellationToken,
    ) -> Result<Ended, Failure> {
        loop {
            let began = Instant::now();
            let events = feed.ack_and_read(self.unacknowledged, BATCH, POLL).await?;
            self.unacknowledged = None;
            let count = match self.pass_on(events, publisher, &log.status).await? {
                Ok(count) => count,
                Err(end) => return Ok(Ended::StoreEndsAt(end)),
            };
            if count == 0 && began.elapsed() >= POLL / 2 {
                publishing(publisher.check()).await?;
            }
            log.publisher_takes_events();
            self.close_window(count);
            let is_told = shutdown.is_cancelled();
            if is_told || self.checkpoint_at.elapsed() >= CHECKPOINT_INTERVAL {
                self.save_checkpoint(feed).await?;
            }
            if self.trimmed_at.elapsed() >= TRIM_INTERVAL {
                self.trimmed_at = Instant::now();
                publishing(publisher.trim(self.checkpoint.unwrap_or(NOTHING_TO_KEEP))).await?;
            }
            if is_told {
                return Ok(Ended::Told);
            }
            pause(count).await;
        }
    }

    /// Brings a batch into the store, and counts it; an error within is where the store ends instead.
    async fn pass_on<P: Publisher>(
        &mut self,
        events: impl Stream<Item = Result<Event, Error>>,
        publisher: &mut P,
        status: &Status,
    ) -> Result<Result<usize, Position>, Failure> {
        let mut events = std::pin::pin!(events);
        let (mut chunk, mut bytes, mut count) = (Vec::new(), 0, 0);
        loop {
            let event = next(&mut events).await?;
            let is_end = event.is_none();
            if let Some(event) = event {
                count += 1;
                self.unacknowledged = Some(event.id);
                if !self.known.remove(event.id) {
                    bytes += event.metadata.get().len() + EVENT_BYTES;
                    chunk.push(event);
                }
            }
            if bytes >= CHUNK_BYTES || (is_end && !chunk.is_empty()) {
                match publishing(publisher.publish(&chunk, self.last)).await? {
                    Published::Done => (),
                    Published::UpTo(end) => self.last = self.last.map(|_| end),
                    Published::EndsAt(end) => return Ok(Err(end)),
                }
                status.update(|state| {
                    state.published += chunk.len() as u64;
                    state.last_publish = Some(Utc::now());
                });
                chunk.clear();
                bytes = 0;
            }
            if is_end {
                return Ok(Ok(count));
            }
        }
    }

    /// A batch that is not full is the end of a window.
    fn close_window(&mut self, count: usize) {
        if count < BATCH as usize && self.windows > 0 {
            self.windows -= 1;
            if self.windows == 0 && !self.known.is_empty() {
                let (count, first) = (self.known.len(), self.known.first().unwrap_or_default());
                tracing::warn!(
                    "{count} events of the store, the first with id {first}, are not in the database: it has lost them, or \
                     somebody else writes to the store"
                );
                self.known.clear();
            }
        }
    }

    /// Not while something in the store has not been met in the feed: a checkpoint says that they hold the same.
    async fn save_checkpoint(&mut self, feed: &Feed) -> Result<(), Error> {
        if let Some(last) = self.unacknowledged {
            feed.ack(last).await?;
            self.unacknowledged = None;
        }
        if let Some(last) = self.last.filter(|last| self.known.is_empty() && Some(*last) > self.checkpoint) {
            feed.save_checkpoint(last).await?;
            self.checkpoint = self.last;
        }
        self.checkpoint_at = Instant::now();
        Ok(())
    }
}

/// Goes back to a checkpoint; which one, and which events the store has from there to its end.
async fn compare<P: Publisher>(
    feed: &Feed,
    publisher: &mut P,
    last: Position,
) -> Result<(Position, EventIds), Failure> {
    let checkpoint = match feed.rewind(last).await? {
        Some(checkpoint) => checkpoint,
        None => {
            feed.save_checkpoint(last).await?;
            last
        }
    };
    let shown = Shown(Some(checkpoint));
    if checkpoint > last {
        tracing::warn!(
            "{} ends at {}, before the first checkpoint at {shown}: what was written before that checkpoint is not written \
             again",
            publisher.name(),
            Shown(Some(last))
        );
    }
    // However long it takes: what is to be read back may be millions.
    let known = publisher.holds(checkpoint, last).await.map_err(Failure::Publisher)?;
    tracing::debug!("going on from checkpoint {shown}, with {} events after it in the store", known.len());
    Ok((checkpoint, known))
}

async fn pause(count: usize) {
    if count < BATCH as usize {
        let pause = Duration::from_millis(count as u64 / 10).min(LONGEST_PAUSE);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

async fn next(events: &mut (impl Stream<Item = Result<Event, Error>> + Unpin)) -> Result<Option<Event>, Error> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, events.try_next()).await {
        Ok(event) => event,
        Err(_) => Err(Error::Timeout(STATEMENT_TIMEOUT)),
    }
}
