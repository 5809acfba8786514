//! One reader of the event feed for all who follow it over HTTP. It reads while anybody follows.

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
/// Batches kept for whoever is slow. Who falls behind further is cut off, and resumes where it was.
const KEPT: usize = 64;
/// How long the database waits for an event before it says that there is none.
const POLL: Duration = Duration::from_secs(2);

/// Events that came together, and the position behind them.
pub struct Batch {
    pub events: Vec<Followed>,
    pub position: String,
}

/// An event, written once for all.
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

/// Where followers join.
pub struct Hub {
    batches: broadcast::Sender<Arc<Batch>>,
    /// What lies before it has been sent; none while nobody follows, or the database is away.
    position: watch::Sender<Option<String>>,
    joined: Arc<Notify>,
    followers: Arc<AtomicUsize>,
    most: usize,
    pub shutdown: CancellationToken,
}

/// A follower's place, until it is dropped.
pub struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    pub fn new(server: PostgresServer, most: usize, shutdown: CancellationToken) -> Hub {
        let (batches, position) = (broadcast::Sender::new(KEPT), watch::Sender::new(None));
        let joined = Arc::new(Notify::new());
        let reader = Reader {
            server: server.with_settings("-c default_transaction_read_only=on"),
            batches: batches.clone(),
            position: position.clone(),
            joined: joined.clone(),
        };
        let until = shutdown.clone();
        tokio::spawn(async move { until.run_until_cancelled(reader.through_outages()).await });
        Hub { batches, position, joined, followers: Arc::default(), most, shutdown }
    }

    /// A place; none where all are taken.
    pub fn slot(&self) -> Option<Slot> {
        let take = |taken: usize| (taken < self.most).then_some(taken + 1);
        let taken = self.followers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok().then(|| Slot(self.followers.clone()))
    }

    /// Everything from the position returned on; it may begin a little before.
    pub async fn join(&self) -> (broadcast::Receiver<Arc<Batch>>, String) {
        let mut position = self.position.subscribe();
        // Subscribed first: the reader notes the position before it sends what lies before it.
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
    async fn through_outages(&self) {
        let (mut outage, mut backoff) = (Outage::of("the database behind /api/v1/events"), Backoff::new());
        loop {
            self.wait_for_followers().await;
            if let Err(error) = self.read(&mut outage, &mut backoff).await {
                if matches!(error, Error::Invalid { .. }) {
                    // A backup was restored, or an asynchronous standby was promoted.
                    tracing::warn!("the database has lost events: {error}. Who follows events goes on with the next");
                    self.position.send_replace(None);
                }
                outage.began(&error);
                backoff.wait().await;
            }
        }
    }

    /// Forgets the position while there is nobody, so that nobody has to be given what happened meanwhile.
    async fn wait_for_followers(&self) {
        while self.batches.receiver_count() == 0 {
            let position = self.position.send_replace(None);
            // Somebody who joined between the two has seen the old position, and must get what comes after it.
            if self.batches.receiver_count() > 0 {
                self.position.send_replace(position);
                return;
            }
            self.joined.notified().await;
        }
    }

    /// Until nobody follows.
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
                // An error means that the last follower has left.
                let _ = self.batches.send(Arc::new(batch.try_into()?));
            }
        }
        Ok(())
    }
}
