//! One reader of the event feed for all HTTP followers. It reads while there is a follower.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use pg_workflow_client::Error;
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::event::Event;
use pg_workflow_client::feed;
use pg_workflow_client::outage::{Backoff, Outage};
use pg_workflow_client::position;

/// Events read at once.
pub const BATCH: i32 = 500;
/// Batches buffered for slow followers. A follower with a larger lag is disconnected and resumes after its last id.
const BUFFERED: usize = 64;
/// Time that the database waits for an event before it returns none.
const POLL: Duration = Duration::from_secs(2);

/// Events read together, and the position after them.
pub struct Batch {
    pub events: Vec<Followed>,
    pub position: String,
}

/// An event, serialized once for all followers.
pub struct Followed {
    pub id: i64,
    pub dag_id: Uuid,
    pub dag_run_id: Uuid,
    pub json: String,
}

impl TryFrom<position::Batch> for Batch {
    type Error = Error;

    fn try_from(read: position::Batch) -> Result<Batch, Error> {
        let followed = |event: &Event| {
            let json = serde_json::to_string(event)?;
            Ok(Followed { id: event.id, dag_id: event.dag_id, dag_run_id: event.dag_run_id, json })
        };
        let events = read.events.iter().map(followed).collect::<Result<_, Error>>()?;
        Ok(Batch { events, position: read.position })
    }
}

/// The hub that followers join.
pub struct Hub {
    batches: broadcast::Sender<Arc<Batch>>,
    /// All events up to it have been sent. `None` without followers, or while the database is unavailable.
    position: watch::Sender<Option<String>>,
    joined: Arc<Notify>,
    followers: Arc<AtomicUsize>,
    max_followers: usize,
    pub shutdown: CancellationToken,
}

/// A follower's slot, freed when it is dropped.
pub struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    pub fn new(server: PostgresServer, max_followers: usize, shutdown: CancellationToken) -> Hub {
        let (batches, position) = (broadcast::Sender::new(BUFFERED), watch::Sender::new(None));
        let joined = Arc::new(Notify::new());
        let reader = Reader {
            server: server.with_settings("-c default_transaction_read_only=on"),
            batches: batches.clone(),
            position: position.clone(),
            joined: joined.clone(),
        };
        let until = shutdown.clone();
        tokio::spawn(async move { until.run_until_cancelled(reader.run()).await });
        Hub { batches, position, joined, followers: Arc::default(), max_followers, shutdown }
    }

    /// Acquires a slot; `None` if all are in use.
    pub fn slot(&self) -> Option<Slot> {
        let acquire = |used: usize| (used < self.max_followers).then_some(used + 1);
        let acquired = self.followers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, acquire);
        acquired.is_ok().then(|| Slot(self.followers.clone()))
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

struct Reader {
    server: PostgresServer,
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
                    tracing::warn!("database lost events: {error}; followers continue with new events");
                    self.position.send_replace(None);
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
        let client = feed::connect_to_wait(&self.server).await?;
        let known = self.position.borrow().clone();
        let mut position = match known {
            Some(position) => position,
            None => position::current(&client).await?,
        };
        self.position.send_replace(Some(position.clone()));
        outage.ended();
        backoff.reset();
        while self.batches.receiver_count() > 0 {
            if let Some(batch) = position::read(&client, &position, BATCH, POLL).await? {
                position.clone_from(&batch.position);
                self.position.send_replace(Some(position.clone()));
                // Fails if the last follower has left.
                let _ = self.batches.send(Arc::new(batch.try_into()?));
            }
        }
        Ok(())
    }
}
