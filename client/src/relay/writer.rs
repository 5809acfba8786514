//! Writes events to the destination, from a relay checkpoint on.

use std::time::{Duration, Instant};

use futures_util::{Stream, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::{Failure, Log, Shown, publishing};
use crate::Error;
use crate::connect::STATEMENT_TIMEOUT;
use crate::event::Event;
use crate::feed::Feed;
use crate::publisher::{EventIds, Position, Published, Publisher};

/// Events read at once. Larger batches drain a backlog no faster.
pub const BATCH: i32 = 2_000;
/// Events are published when they amount to this, so that a batch of large ones need not fit into memory.
const CHUNK_BYTES: usize = 1 << 20;
/// How long the database waits for an event. After that, both servers are checked.
const POLL: Duration = Duration::from_secs(1);
/// Publishing events one by one is expensive. If many arrive, the relay waits for more: a tenth of a millisecond for
/// each event of the last batch, up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// How often to save a relay checkpoint: a new leader reads back all entries after the last one.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// The checkpoint of a destination from which nothing is read back.
const NOTHING_TO_KEEP: Position = [i64::MAX; 2];

/// Why a writer stopped.
pub enum Ended {
    Stopped,
    DestinationEndsAt(Position),
    /// An event of the batch cannot be read.
    RowFailed,
}

/// The fate of a batch.
enum Passed {
    /// The destination holds all of its events: this many.
    All(usize),
    /// The destination ended here, not where it was expected to. The rest was not written.
    DestinationEndsAt(Position),
    /// An event cannot be read. Events before it may not have been written.
    RowFailed(Error),
}

/// Writes to the destination from a relay checkpoint on.
pub struct Writer {
    /// Events read at once.
    batch: i32,
    /// It waits before an event that cannot be read.
    is_stuck: bool,
    /// The end of the destination; `None` if it cannot tell.
    pub last: Option<Position>,
    /// Events after the checkpoint that the destination already holds.
    known: EventIds,
    /// How many windows of the feed can still hold some of them: the one open at the checkpoint, and the next one,
    /// which opens after they were written.
    windows: u8,
    /// The last event that the destination holds and that is not acknowledged.
    unacknowledged: Option<i64>,
    checkpoint: Option<Position>,
    checkpoint_at: Instant,
    trimmed_at: Instant,
}

impl Writer {
    pub async fn begin<P: Publisher>(feed: &Feed, publisher: &mut P, batch: i32) -> Result<Writer, Failure> {
        let last = publishing(publisher.position()).await?;
        let (checkpoint, known) = match last {
            Some(last) => {
                let (checkpoint, known) = compare(feed, publisher, last).await?;
                (Some(checkpoint), known)
            }
            None => (None, EventIds::default()),
        };
        let now = Instant::now();
        Ok(Writer {
            batch,
            is_stuck: false,
            last,
            known,
            windows: 2,
            unacknowledged: None,
            checkpoint,
            checkpoint_at: now,
            trimmed_at: now,
        })
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
            let events = feed.ack_and_read(self.unacknowledged, self.batch, POLL).await?;
            self.unacknowledged = None;
            let count = match self.pass_on(events, publisher, log).await? {
                Passed::All(count) => count,
                Passed::DestinationEndsAt(end) => return Ok(Ended::DestinationEndsAt(end)),
                Passed::RowFailed(_) if self.batch > 1 => return Ok(Ended::RowFailed),
                Passed::RowFailed(error) => {
                    self.wait_before_event(feed, error, log, shutdown).await?;
                    match shutdown.is_cancelled() {
                        true => return Ok(Ended::Stopped),
                        false => continue,
                    }
                }
            };
            if count == 0 && began.elapsed() >= POLL / 2 {
                publishing(publisher.check()).await?;
            }
            log.postgres_delivers();
            log.publisher_accepts_events();
            self.close_window(count);
            if std::mem::take(&mut self.is_stuck) {
                // The event was skipped or corrected: no rewind must return to it.
                self.checkpoint = None;
                self.save_checkpoint(feed).await?;
                self.batch = BATCH;
            }
            let is_stopped = shutdown.is_cancelled();
            if is_stopped || self.checkpoint_at.elapsed() >= CHECKPOINT_INTERVAL {
                self.save_checkpoint(feed).await?;
            }
            if self.trimmed_at.elapsed() >= TRIM_INTERVAL {
                self.trimmed_at = Instant::now();
                publishing(publisher.trim(self.checkpoint.unwrap_or(NOTHING_TO_KEEP))).await?;
            }
            if is_stopped {
                return Ok(Ended::Stopped);
            }
            pause(count, self.batch).await;
        }
    }

    /// Waits before an event that cannot be read, and stays there: a rewind would undo a skip.
    async fn wait_before_event(
        &mut self,
        feed: &Feed,
        error: Error,
        log: &mut Log,
        shutdown: &CancellationToken,
    ) -> Result<(), Failure> {
        self.save_checkpoint(feed).await?;
        log.cannot_deliver(&feed.name_next(error).await?);
        self.is_stuck = true;
        shutdown.run_until_cancelled(log.backoff.wait()).await;
        Ok(())
    }

    /// Writes a batch to the destination, in chunks.
    async fn pass_on<P: Publisher>(
        &mut self,
        events: impl Stream<Item = Result<Event, Error>>,
        publisher: &mut P,
        log: &Log,
    ) -> Result<Passed, Failure> {
        let mut events = std::pin::pin!(events);
        let (mut chunk, mut bytes, mut count) = (Vec::new(), 0, 0);
        loop {
            let event = match next(&mut events).await {
                Err(error) if error.is_about_a_row() => return Ok(Passed::RowFailed(error)),
                event => event?,
            };
            let is_end = event.is_none();
            if let Some(event) = event {
                count += 1;
                self.unacknowledged = Some(event.id);
                if !self.known.remove(event.id) {
                    bytes += event.size();
                    chunk.push(event);
                }
            }
            if bytes >= CHUNK_BYTES || (is_end && !chunk.is_empty()) {
                match publishing(publisher.publish(&chunk, self.last)).await? {
                    Published::Done => (),
                    Published::UpTo(end) => self.last = self.last.map(|_| end),
                    Published::EndsAt(end) => return Ok(Passed::DestinationEndsAt(end)),
                }
                log.count_published(chunk.len());
                chunk.clear();
                bytes = 0;
            }
            if is_end {
                return Ok(Passed::All(count));
            }
        }
    }

    /// A batch that is not full ends a window.
    fn close_window(&mut self, count: usize) {
        if count < self.batch as usize && self.windows > 0 {
            self.windows -= 1;
            if self.windows == 0 && !self.known.is_empty() {
                let (count, first) = (self.known.len(), self.known.first().unwrap_or_default());
                tracing::warn!(
                    "the destination holds {count} events that the database does not, the first with id {first}. The \
                     database lost them, or another program writes to the destination"
                );
                self.known.clear();
            }
        }
    }

    /// Acknowledges, and saves a checkpoint unless an event in the destination has not been found in the feed: at a
    /// checkpoint, both hold the same events.
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

/// Returns to a checkpoint, and finds the events that the destination holds after it.
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
            "{} ends at {}, before the first checkpoint at {shown}; events before that checkpoint are not written again",
            publisher.name(),
            Shown(Some(last))
        );
    }
    // Without a time limit: there may be millions to read back.
    let known = publisher.holds(checkpoint, last).await.map_err(Failure::Publisher)?;
    tracing::debug!("continuing from checkpoint {shown}; the destination holds {} events after it", known.len());
    Ok((checkpoint, known))
}

async fn pause(count: usize, batch: i32) {
    if count < batch as usize {
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
