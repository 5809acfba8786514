//! Writes events to the destination, from a relay checkpoint on.

use std::time::{Duration, Instant};

use futures_util::{Stream, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::{Failure, LEASE, Log, Shown, publishing, publishing_bytes};
use crate::Error;
use crate::connect::STATEMENT_TIMEOUT;
use crate::event::Event;
use crate::feed::Feed;
use crate::publisher::{EventSet, Held, Position, Published, Publisher};

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
/// The position before the first event of a destination.
const START: Position = [0; 2];

/// Why a writer stopped.
pub enum Ended {
    Stopped,
    DestinationEndsAt(Position),
    /// An event of the batch cannot be read.
    RowFailed,
}

/// The fate of a batch.
enum Passed {
    /// The destination holds all of its events: this many, of which so many were written now.
    All { count: usize, written: usize },
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
    known: EventSet,
    /// The feed has all of those, unless the database lost them.
    expects_known: bool,
    /// An event whose id the destination has for another one is logged.
    is_reuse_logged: bool,
    /// How many windows of the feed can still hold some of the known events: the one open at the checkpoint, and the
    /// next one, which opens after they were written.
    windows: u8,
    /// The last event that the destination holds and that is not acknowledged.
    unacknowledged: Option<i64>,
    checkpoint: Option<Position>,
    checkpoint_at: Instant,
    trimmed_at: Instant,
}

impl Writer {
    pub async fn begin<P: Publisher>(feed: &Feed, publisher: &mut P, batch: i32) -> Result<Writer, Failure> {
        let last = while_renewing(feed, None, publishing(publisher.position())).await?;
        let compared = match last {
            Some(last) => compare(feed, publisher, last).await?,
            None => Comparison { checkpoint: None, known: EventSet::default(), expects_known: false },
        };
        let now = Instant::now();
        let mut writer = Writer {
            batch,
            is_stuck: false,
            last,
            known: compared.known,
            expects_known: compared.expects_known,
            is_reuse_logged: false,
            windows: 2,
            unacknowledged: None,
            checkpoint: compared.checkpoint,
            checkpoint_at: now,
            trimmed_at: now,
        };
        // Before the first event: a full destination rejects it.
        writer.trim(publisher).await?;
        Ok(writer)
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
            let (count, written) = match self.pass_on(events, publisher, log).await? {
                Passed::All { count, written } => (count, written),
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
            let is_idle = count == 0 && began.elapsed() >= POLL / 2;
            if is_idle {
                publishing(publisher.check()).await?;
                // It can lose events while there are no new ones.
                let end = publishing(publisher.position()).await?;
                if let Some(end) = end.filter(|end| self.last.is_some_and(|last| last != *end)) {
                    return Ok(Ended::DestinationEndsAt(end));
                }
            }
            log.postgres_delivers();
            // A batch of events that it holds already proves nothing.
            if written > 0 || is_idle {
                log.publisher_accepts_events();
            }
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
                self.trim(publisher).await?;
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

    async fn trim<P: Publisher>(&mut self, publisher: &mut P) -> Result<(), Failure> {
        self.trimmed_at = Instant::now();
        publishing(publisher.trim(self.checkpoint.unwrap_or(NOTHING_TO_KEEP))).await
    }

    /// Writes a batch to the destination, in chunks.
    async fn pass_on<P: Publisher>(
        &mut self,
        events: impl Stream<Item = Result<Event, Error>>,
        publisher: &mut P,
        log: &Log,
    ) -> Result<Passed, Failure> {
        let mut events = std::pin::pin!(events);
        let (mut chunk, mut bytes, mut count, mut written) = (Vec::new(), 0, 0, 0);
        loop {
            let event = match next(&mut events).await {
                Err(error) if error.is_about_a_row() => return Ok(Passed::RowFailed(error)),
                event => event?,
            };
            let is_end = event.is_none();
            // A large event is written alone: it may be too large for the destination, and those before it are not.
            let is_large = event.as_ref().is_some_and(|event| event.size() >= CHUNK_BYTES);
            if !chunk.is_empty() && (bytes >= CHUNK_BYTES || is_large || is_end) {
                if let Some(end) = self.write(&chunk, bytes, publisher).await? {
                    return Ok(Passed::DestinationEndsAt(end));
                }
                log.count_published(chunk.len());
                written += chunk.len();
                chunk.clear();
                bytes = 0;
            }
            let Some(event) = event else { return Ok(Passed::All { count, written }) };
            count += 1;
            self.unacknowledged = Some(event.id);
            if !self.is_held(&event) {
                bytes += event.size();
                chunk.push(event);
            }
        }
    }

    /// Writes events; returns the end of the destination if it is elsewhere than expected.
    async fn write<P: Publisher>(
        &mut self,
        events: &[Event],
        bytes: usize,
        publisher: &mut P,
    ) -> Result<Option<Position>, Failure> {
        match publishing_bytes(bytes, publisher.publish(events, self.last)).await? {
            Published::Done => (),
            Published::UpTo(end) => self.last = self.last.map(|_| end),
            Published::EndsAt(end) => return Ok(Some(end)),
        }
        Ok(None)
    }

    /// Returns whether the destination holds an event.
    fn is_held(&mut self, event: &Event) -> bool {
        let held = self.known.find(event);
        if held == Held::Other && !std::mem::replace(&mut self.is_reuse_logged, true) {
            let Event { id, entity_type, entity_id, version, changed_at, .. } = event;
            tracing::warn!(
                "the destination has another event {id} than the database, which has version {version} of {entity_type} \
                 {entity_id}, {changed_at}; writing that too. The database was restored or promoted without events that \
                 had been relayed"
            );
        }
        held == Held::Same
    }

    /// A batch that is not full ends a window.
    fn close_window(&mut self, count: usize) {
        if count < self.batch as usize && self.windows > 0 {
            self.windows -= 1;
            if self.windows == 0 {
                let (count, first) = (self.known.missing(), self.known.first_missing().unwrap_or_default());
                if count > 0 && self.expects_known {
                    tracing::warn!(
                        "the destination holds {count} events that the database does not, the first with id {first}. The \
                         database lost them, or another program writes to the destination"
                    );
                }
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
        if let Some(last) = self.last.filter(|last| self.known.missing() == 0 && Some(*last) > self.checkpoint) {
            feed.save_checkpoint(last).await?;
            self.checkpoint = self.last;
        }
        self.checkpoint_at = Instant::now();
        Ok(())
    }
}

/// The result of comparing a destination with the database.
struct Comparison {
    /// The feed continues from this checkpoint; `None` if the destination does not know its end.
    checkpoint: Option<Position>,
    /// Events that the destination holds after it.
    known: EventSet,
    /// The feed has all of those, unless the database lost them.
    expects_known: bool,
}

/// Returns to a checkpoint, and finds the events that the destination holds after it.
async fn compare<P: Publisher>(feed: &Feed, publisher: &mut P, last: Position) -> Result<Comparison, Failure> {
    let saved = feed.rewind(last).await?;
    let is_beyond = saved.is_some_and(|saved| saved > last);
    if let Some(saved) = saved.filter(|_| is_beyond) {
        tracing::warn!(
            "{} ends at {}, before the first checkpoint at {}; events before that checkpoint are not written again",
            publisher.name(),
            Shown(Some(last)),
            Shown(Some(saved))
        );
    }
    let checkpoint = saved.filter(|_| !is_beyond).unwrap_or(START);
    // Without a time limit: there may be millions to read back.
    let holding = publisher.holds(checkpoint, last);
    let mut known = while_renewing(feed, Some(last), async { holding.await.map_err(Failure::Publisher) }).await?;
    known.sort();
    if saved.is_none() {
        // A relay has written them, with a consumer that is gone.
        if (!known.is_empty() || publisher.has_published()) && !feed.is_at_beginning().await? {
            return Err(Failure::Feed(feed.gone()));
        }
        feed.save_checkpoint(START).await?;
    }
    let shown = Shown(Some(checkpoint));
    tracing::debug!("continuing from checkpoint {shown}; the destination holds {} events after it", known.len());
    // From the start, the destination also holds events before the checkpoint.
    let expects_known = saved.is_some_and(|saved| saved != START) && !is_beyond;
    Ok(Comparison { checkpoint: Some(checkpoint), known, expects_known })
}

/// Awaits a long call of the publisher, and renews the lease meanwhile: otherwise a standby would take over, and begin the
/// same call. With a position, returns to its checkpoint again, which changes nothing else.
async fn while_renewing<T>(
    feed: &Feed,
    checkpoint_of: Option<Position>,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut call = std::pin::pin!(call);
    loop {
        match (tokio::time::timeout(LEASE / 3, &mut call).await, checkpoint_of) {
            (Ok(result), _) => return result,
            (Err(_), Some(last)) => _ = feed.rewind(last).await?,
            (Err(_), None) => feed.renew().await?,
        }
    }
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
