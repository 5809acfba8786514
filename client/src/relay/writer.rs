//! What goes into the stream, from a checkpoint on.

use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::{Stream, TryStreamExt, future};
use redis::aio::ConnectionLike;
use roaring::RoaringTreemap;
use tokio_util::sync::CancellationToken;

use super::stream::{Appended, Chunk, EntryId, EventStream};
use super::{Log, Options, Status};
use crate::Error;
use crate::connect::STATEMENT_TIMEOUT;
use crate::event::Event;
use crate::feed::Feed;

/// Events read at once. Larger batches drain a backlog no faster.
const BATCH: i32 = 2_000;
/// Events are sent to Redis when they amount to this, so that a batch of large ones need not fit into memory.
const CHUNK_BYTES: usize = 1 << 20;
/// How long the database waits for an event before it says that there is none. Both servers are then seen to be there.
const POLL: Duration = Duration::from_secs(1);
/// Events that come one by one are dear. Where many come, the relay waits for more: as many tenths of a millisecond as
/// there were in the last batch, up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// How often to save a checkpoint: what came after the last is read back from the stream when a relay begins.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// Why a writer stopped.
pub enum Ended {
    Told,
    StreamEndsAt(EntryId),
}

/// From a checkpoint on, what goes into the stream.
pub struct Writer {
    /// The stream's last entry.
    pub last: EntryId,
    /// Events after the checkpoint that are in the stream already.
    known: RoaringTreemap,
    /// How many windows of the feed can still hold some of those: the one that is open at the checkpoint, and the next,
    /// which is opened after they were written.
    windows: u8,
    /// Read, in the stream, and not acknowledged yet.
    unacknowledged: Option<i64>,
    checkpoint: EntryId,
    checkpoint_at: Instant,
    trimmed_at: Instant,
}

impl Writer {
    pub async fn begin<C: ConnectionLike>(feed: &Feed, stream: &mut EventStream<C>) -> Result<Writer, Error> {
        let last = stream.last_id().await?;
        let checkpoint = match feed.rewind(last.into()).await? {
            Some(position) => EntryId::from(position),
            None => {
                feed.save_checkpoint(last.into()).await?;
                last
            }
        };
        if checkpoint > last {
            tracing::warn!(
                "the stream ends at {last}, before the first checkpoint at {checkpoint}: what was written before that \
                 checkpoint is not written again"
            );
        }
        let known = stream.events_between(checkpoint, last).await?;
        tracing::debug!("going on from checkpoint {checkpoint}, with {} events after it in the stream", known.len());
        let now = Instant::now();
        Ok(Writer { last, known, windows: 2, unacknowledged: None, checkpoint, checkpoint_at: now, trimmed_at: now })
    }

    pub async fn run<C: ConnectionLike>(
        &mut self,
        feed: &Feed,
        stream: &mut EventStream<C>,
        options: &Options,
        log: &mut Log,
        shutdown: &CancellationToken,
    ) -> Result<Ended, Error> {
        loop {
            let began = Instant::now();
            let events = self.next_events(feed).await?;
            let count = match self.pass_on(events, stream, &log.status).await? {
                Ok(count) => count,
                Err(end) => return Ok(Ended::StreamEndsAt(end)),
            };
            if count == 0 && began.elapsed() >= POLL / 2 {
                stream.check().await?;
            }
            log.redis_takes_events();
            self.close_window(count);
            let is_told = shutdown.is_cancelled();
            if is_told || self.checkpoint_at.elapsed() >= CHECKPOINT_INTERVAL {
                self.save_checkpoint(feed).await?;
            }
            if options.max_length > 0 && self.trimmed_at.elapsed() >= TRIM_INTERVAL {
                self.trimmed_at = Instant::now();
                stream.trim(options.max_length, options.min_age, self.checkpoint).await?;
            }
            if is_told {
                return Ok(Ended::Told);
            }
            pause(count).await;
        }
    }

    /// Acknowledges the last batch and reads the next, in one round trip: the driver sends both, and the server answers
    /// them in this order.
    async fn next_events(&mut self, feed: &Feed) -> Result<impl Stream<Item = Result<Event, Error>> + use<>, Error> {
        let acknowledge = async {
            match self.unacknowledged {
                Some(last) => feed.ack(last).await,
                None => Ok(()),
            }
        };
        let (acknowledged, events) = future::join(acknowledge, feed.read(BATCH, POLL)).await;
        acknowledged?;
        self.unacknowledged = None;
        events
    }

    /// Brings a batch into the stream, and counts it; an error within is where the stream ends instead.
    async fn pass_on<C: ConnectionLike>(
        &mut self,
        events: impl Stream<Item = Result<Event, Error>>,
        stream: &mut EventStream<C>,
        status: &Status,
    ) -> Result<Result<usize, EntryId>, Error> {
        let mut events = std::pin::pin!(events);
        let (mut chunk, mut end, mut count) = (Chunk::default(), self.last, 0);
        loop {
            let event = next(&mut events).await?;
            if let Some(event) = &event {
                count += 1;
                self.unacknowledged = Some(event.id);
                if !self.known.remove(event.id.unsigned_abs()) {
                    end = end.next(event.id);
                    chunk.push(end, serde_json::to_vec(event)?);
                }
            }
            if chunk.bytes() >= CHUNK_BYTES || (event.is_none() && !chunk.is_empty()) {
                if let Appended::StreamEndsAt(end) = stream.append(self.last, &chunk).await? {
                    return Ok(Err(end));
                }
                self.last = end;
                let published = chunk.len() as u64;
                status.update(|state| {
                    state.published += published;
                    state.last_publish = Some(Utc::now());
                });
                chunk.clear();
            }
            if event.is_none() {
                return Ok(Ok(count));
            }
        }
    }

    /// A batch that is not full is the end of a window.
    fn close_window(&mut self, count: usize) {
        if count < BATCH as usize && self.windows > 0 {
            self.windows -= 1;
            if self.windows == 0 && !self.known.is_empty() {
                let (count, first) = (self.known.len(), self.known.min().unwrap_or_default());
                tracing::warn!(
                    "{count} events of the stream, the first with id {first}, are not in the database: it has lost them, or \
                     somebody else writes to the stream"
                );
                self.known.clear();
            }
        }
    }

    /// Not while something in the stream has not been met in the feed: a checkpoint says that they hold the same.
    async fn save_checkpoint(&mut self, feed: &Feed) -> Result<(), Error> {
        if let Some(last) = self.unacknowledged {
            feed.ack(last).await?;
            self.unacknowledged = None;
        }
        if self.known.is_empty() && self.last > self.checkpoint {
            feed.save_checkpoint(self.last.into()).await?;
            self.checkpoint = self.last;
        }
        self.checkpoint_at = Instant::now();
        Ok(())
    }
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
