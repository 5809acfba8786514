//! One reader of the event feed for all HTTP followers. It reads while there is a follower.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Limits;
use super::addresses::{Address, Shares, Slot, Slots};
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::database::Database;
use pg_workflow_client::event::Event;
use pg_workflow_client::feed;
use pg_workflow_client::outage::{Backoff, Outage};
use pg_workflow_client::position;
use pg_workflow_client::session::Session;
use pg_workflow_client::{Error, History};

/// Events read at once, and their size. A larger event is a batch of its own.
const BATCH: i32 = 500;
const BATCH_BYTES: usize = 512 << 10;
/// Events of a first batch, whose size is unknown.
pub const FIRST_BATCH: i32 = 16;
/// How much larger the next batch may be.
const GROWTH: usize = 4;
/// Batches buffered for slow followers, and their size. A follower with a larger lag is disconnected and resumes after its
/// last id.
const BUFFERED: usize = 64;
const BUFFERED_BYTES: usize = 32 << 20;
/// Followers that read missed events at the same time: each has a batch of its own in memory.
const REPLAYS: usize = 32;
/// Time that the database waits for an event before it returns none.
const POLL: Duration = Duration::from_secs(2);

/// Events read together, and the position after them.
pub struct Batch {
    pub events: Vec<Followed>,
    pub position: String,
    /// Disconnects the followers that still send it.
    pub evicted: CancellationToken,
}

/// An event, serialized once for all followers.
pub struct Followed {
    pub id: i64,
    pub dag_id: Uuid,
    pub dag_run_id: Uuid,
    /// The server-sent event.
    pub message: String,
}

impl Batch {
    /// A batch without events that disconnects all followers.
    fn end() -> Batch {
        let evicted = CancellationToken::new();
        evicted.cancel();
        Batch { events: Vec::new(), position: String::new(), evicted }
    }

    fn size(&self) -> usize {
        self.events.iter().map(|event| event.message.len() + size_of::<Followed>()).sum()
    }

    /// Returns how many events to read next: what does not fit is read in vain.
    pub fn next_size(&self) -> i32 {
        let count = self.events.len();
        let fitting = (count * BATCH_BYTES / self.size().max(1)).clamp(1, (count * GROWTH).max(1));
        i32::try_from(fitting).unwrap_or(BATCH).min(BATCH)
    }
}

/// Reads the next events after a position, up to `max` and to the size of a batch.
pub async fn read(session: &impl Session, at: &str, max: i32, wait: Duration) -> Result<Option<Batch>, Error> {
    position::read_within(session, at, max, BATCH_BYTES, wait).await?.map(Batch::try_from).transpose()
}

impl TryFrom<position::Batch> for Batch {
    type Error = Error;

    fn try_from(read: position::Batch) -> Result<Batch, Error> {
        let followed = |event: Event| {
            let Event { id, dag_id, dag_run_id, .. } = event;
            let message = format!("event: change\ndata: {}\n\n", serde_json::to_string(&event)?);
            Ok(Followed { id, dag_id, dag_run_id, message })
        };
        let events = read.events.into_iter().map(followed).collect::<Result<_, Error>>()?;
        Ok(Batch { events, position: read.position, evicted: CancellationToken::new() })
    }
}

/// The hub that followers join.
pub struct Hub {
    batches: broadcast::Sender<Arc<Batch>>,
    /// All events up to it have been sent. `None` without followers, or while the database is unavailable.
    position: watch::Sender<Option<String>>,
    joined: Arc<Notify>,
    followers: Arc<Slots>,
    visible: Visible,
    pub replays: Shares,
    pub shutdown: CancellationToken,
}

impl Hub {
    /// Events are sent only if the role of `reader` may see them.
    pub fn new(server: PostgresServer, reader: Option<Database>, limits: &Limits, shutdown: CancellationToken) -> Hub {
        let (batches, position) = (broadcast::Sender::new(BUFFERED), watch::Sender::new(None));
        let joined = Arc::new(Notify::new());
        let visible = Visible(reader);
        let reader = Reader {
            server,
            visible: visible.clone(),
            batches: batches.clone(),
            position: position.clone(),
            joined: joined.clone(),
        };
        let until = shutdown.clone();
        tokio::spawn(async move { until.run_until_cancelled(reader.run()).await });
        let followers = Slots::new(limits.followers, limits.followers_per_address);
        Hub { batches, position, joined, followers, visible, replays: Shares::new(REPLAYS, limits), shutdown }
    }

    /// Returns the batch without the events that the role of the requests may not see.
    pub async fn keep_visible(&self, batch: Batch) -> Result<Batch, Error> {
        self.visible.keep(batch).await
    }

    /// Acquires a slot; `None` if all are in use, or all of this address.
    pub fn slot(&self, address: Address) -> Option<Slot> {
        self.followers.acquire(address)
    }

    /// Returns the number of followers.
    pub fn followers(&self) -> usize {
        self.followers.count()
    }

    /// Subscribes to all events after the returned position. The first ones might be before it.
    pub async fn join(&self) -> (broadcast::Receiver<Arc<Batch>>, String) {
        let mut position = self.position.subscribe();
        // Subscribed first: the reader stores a position before it sends the events up to it.
        let batches = self.batches.subscribe();
        self.joined.notify_one();
        let known = position.wait_for(Option::is_some).await.ok().and_then(|position| position.clone());
        (batches, known.unwrap_or_default())
    }
}

/// The role whose events are sent; `None` sends all.
#[derive(Clone)]
struct Visible(Option<Database>);

impl Visible {
    /// The database decides, as for the list of events.
    async fn keep(&self, mut batch: Batch) -> Result<Batch, Error> {
        let Some(database) = &self.0 else { return Ok(batch) };
        let ids: Vec<i64> = batch.events.iter().map(|event| event.id).collect();
        let seen: HashSet<i64> = History::new(&database.write().await?).visible(&ids).await?.into_iter().collect();
        batch.events.retain(|event| seen.contains(&event.id));
        Ok(batch)
    }
}

struct Reader {
    server: PostgresServer,
    visible: Visible,
    batches: broadcast::Sender<Arc<Batch>>,
    position: watch::Sender<Option<String>>,
    joined: Arc<Notify>,
}

impl Reader {
    async fn run(&self) {
        let (mut outage, mut backoff) = (Outage::of("the database for /api/v1/events"), Backoff::new());
        loop {
            self.wait_for_followers().await;
            if let Err(error) = self.read(&mut outage, &mut backoff).await {
                if matches!(error, Error::Invalid { .. }) {
                    // A backup was restored, or an asynchronous standby was promoted.
                    tracing::warn!("database lost events: {error}; disconnecting all followers");
                    self.position.send_replace(None);
                    // They reconnect with their last id, and learn it. Fails if none is left.
                    let _ = self.batches.send(Arc::new(Batch::end()));
                }
                outage.began(&error);
                backoff.wait().await;
            }
        }
    }

    /// Waits for a follower. Without followers the position is dropped: later ones start with new events.
    async fn wait_for_followers(&self) {
        while self.batches.receiver_count() == 0 {
            let position = self.position.send_replace(None);
            // A follower that joined between the two has the old position and needs all events after it.
            if self.batches.receiver_count() > 0 {
                self.position.send_replace(position);
                return;
            }
            self.joined.notified().await;
        }
    }

    /// Reads and sends events until the last follower leaves.
    async fn read(&self, outage: &mut Outage, backoff: &mut Backoff) -> Result<(), Error> {
        let client = feed::connect_to_wait(&self.server.clone().with_read_only_transactions()).await?;
        let known = self.position.borrow().clone();
        let mut position = match known {
            Some(position) => position,
            None => position::current(&client).await?,
        };
        self.position.send_replace(Some(position.clone()));
        outage.ended();
        backoff.reset();
        let (mut max, mut buffered) = (FIRST_BATCH, Buffered::default());
        while self.batches.receiver_count() > 0 {
            if let Some(batch) = read(&client, &position, max, POLL).await? {
                position.clone_from(&batch.position);
                max = batch.next_size();
                let batch = self.visible.keep(batch).await?;
                self.position.send_replace(Some(position.clone()));
                let batch = Arc::new(batch);
                buffered.add(&batch);
                // Fails if the last follower has left.
                let _ = self.batches.send(batch);
            }
        }
        Ok(())
    }
}

/// The batches that slow followers keep in memory, the oldest first.
#[derive(Default)]
struct Buffered(VecDeque<Weak<Batch>>);

impl Buffered {
    /// Adds a batch. Disconnects the followers that lag most while all together are too large.
    fn add(&mut self, batch: &Arc<Batch>) {
        self.0.retain(|batch| batch.strong_count() > 0);
        self.0.push_back(Arc::downgrade(batch));
        let mut size: usize = self.0.iter().filter_map(Weak::upgrade).map(|batch| batch.size()).sum();
        while size > BUFFERED_BYTES && self.0.len() > 1 {
            if let Some(oldest) = self.0.pop_front().and_then(|oldest| oldest.upgrade()) {
                size -= oldest.size();
                oldest.evicted.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bytes: usize) -> Arc<Batch> {
        let (dag_id, dag_run_id) = (Uuid::nil(), Uuid::nil());
        let event = Followed { id: 1, dag_id, dag_run_id, message: "x".repeat(bytes) };
        Arc::new(Batch { events: vec![event], position: String::new(), evicted: CancellationToken::new() })
    }

    #[test]
    fn oldest_batches_are_evicted_beyond_the_size() {
        let mut buffered = Buffered::default();
        let held: Vec<_> = (0..5).map(|_| batch(BUFFERED_BYTES / 4)).collect();
        drop({
            // A batch that all followers have sent does not count.
            let sent = batch(BUFFERED_BYTES);
            buffered.add(&sent);
            sent
        });
        held.iter().for_each(|batch| buffered.add(batch));
        let evicted: Vec<bool> = held.iter().map(|batch| batch.evicted.is_cancelled()).collect();
        assert_eq!(evicted, [true, true, false, false, false]);
        let large = batch(2 * BUFFERED_BYTES);
        buffered.add(&large);
        assert!(held.iter().all(|batch| batch.evicted.is_cancelled()) && !large.evicted.is_cancelled());
    }
}
