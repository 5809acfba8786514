//! Subscribers: deliver events to your handler, from one of four sources.
//!
//! | source | suits | events missed while it does not run |
//! |---|---|---|
//! | [`Subscriber::consumer`] | programs that must not miss events: the database stores the position under a name | none |
//! | [`Subscriber::follow`] | followers: start now, or store their own position; store nothing in the database | those before the position |
//! | `Subscriber::channel` | many observers: live from Redis; PostgreSQL is read only after outages | all |
//! | `Subscriber::group` | workers that share events: a consumer group of the Redis stream | those trimmed from the stream |
//!
//! An event is delivered until the handler succeeds, and only then the next: within an entity, events arrive in the
//! order of their versions (but see `Subscriber::group`). Each is delivered at least once: after an outage or a crash
//! of your program, some are redelivered. `(entity_id, version)` identifies an event. A subscriber waits for an
//! unavailable server, and logs the outage once; the events of that time follow.
//!
//! ```no_run
//! use pg_workflow_client::connect::PostgresServer;
//! use pg_workflow_client::event::Event;
//! use pg_workflow_client::subscriber::Subscriber;
//! use tokio_util::sync::CancellationToken;
//!
//! async fn bill(event: Event) -> Result<(), std::io::Error> {
//!     match event.new_state {
//!         Some(state) => println!("{} is {state} now", event.entity_id),
//!         None => println!("{} was deleted", event.entity_id),
//!     }
//!     Ok(())
//! }
//!
//! # async fn example() -> Result<(), pg_workflow_client::Error> {
//! let database = PostgresServer::parse("postgres://billing@db.example/workflow")?;
//! Subscriber::consumer(database, "billing").run(bill, CancellationToken::new()).await;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "redis")]
mod channel;
mod consumer;
mod delivery;
mod follower;
#[cfg(feature = "redis")]
mod group;
#[cfg(feature = "redis")]
mod subscription;
#[cfg(feature = "redis")]
mod versions;

use std::fmt::Display;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::connect::PostgresServer;
use crate::event::Event;
use crate::outage::{Backoff, Outage};
#[cfg(feature = "redis")]
use crate::redis_server::RedisServer;
#[cfg(feature = "redis")]
use channel::Channel;
use consumer::Consumer;
use delivery::Delivery;
use follower::Follower;
#[cfg(feature = "redis")]
use group::Group;

/// How long a source waits for events. After that, the server is checked.
const POLL: Duration = Duration::from_secs(1);
/// Events read at once: a slow handler has at most these in memory.
const BATCH: i32 = 200;
/// How often handled events are acknowledged, also within a batch or a long handler.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(1);

/// Delivers events to a handler. See the [module](self).
pub struct Subscriber {
    source: Source,
}

enum Source {
    Consumer(Consumer),
    Follower(Follower),
    #[cfg(feature = "redis")]
    Channel(Box<Channel>),
    #[cfg(feature = "redis")]
    Group(Group),
}

impl Subscriber {
    /// Reads the feed as a consumer, whose position the database stores.
    ///
    /// The consumer is created if it does not exist, and begins with the events committed from then on. If it vanishes
    /// later, the subscriber logs that and waits: a new consumer would skip events.
    ///
    /// Of several subscribers with the same name one gets events. Another takes over when it ends, or 10 s after it
    /// hangs. The role needs `create_consumer`, `read_events`, `ack_events`, `lease_consumer` and `release_consumer`.
    pub fn consumer(server: PostgresServer, name: &str) -> Subscriber {
        Subscriber { source: Source::Consumer(Consumer::new(server, name)) }
    }

    /// Follows the feed from a position, or from now: the database stores nothing.
    ///
    /// To continue later, store [`positions`](Subscriber::positions). The role needs `current_position` and
    /// `follow_events`.
    ///
    /// If the database does not know the position (it lost its latest events, or it is another database), the
    /// subscriber logs that and continues from now.
    ///
    /// ```no_run
    /// # async fn example(database: pg_workflow_client::connect::PostgresServer) {
    /// use pg_workflow_client::subscriber::Subscriber;
    /// use tokio_util::sync::CancellationToken;
    ///
    /// let mut subscriber = Subscriber::follow(database, std::fs::read_to_string("position").ok());
    /// let positions = subscriber.positions();
    /// subscriber.run(async |event| { println!("{event:?}"); Ok::<(), String>(()) }, CancellationToken::new()).await;
    /// if let Some(position) = &*positions.borrow() {
    ///     std::fs::write("position", position).unwrap();
    /// }
    /// # }
    /// ```
    pub fn follow(server: PostgresServer, position: Option<String>) -> Subscriber {
        Subscriber { source: Source::Follower(Follower::new(server, position)) }
    }

    /// Listens to a Redis channel in which a relay publishes, from now on.
    ///
    /// Versions make up for the lost and repeated messages of a channel. A repeated event is dropped (at least
    /// 100,000 entities are remembered), but not a later event with the same version, which a restored database
    /// writes. An event that skips versions waits until the missing ones are read from `state_history`. After each
    /// outage of the channel, and if the handler is so slow that 10,000 messages wait, the subscriber reads the feed,
    /// from a position before which the channel has delivered everything.
    ///
    /// The Redis user needs `+hello +subscribe +ping` and the channel, the role `current_position`, `follow_events` and
    /// SELECT on `state_history`.
    ///
    /// ```no_run
    /// # async fn example(redis: pg_workflow_client::redis_server::RedisServer, database: pg_workflow_client::connect::PostgresServer) {
    /// use pg_workflow_client::subscriber::Subscriber;
    /// use tokio_util::sync::CancellationToken;
    ///
    /// let mut subscriber = Subscriber::channel(redis, "workflow:events", database);
    /// subscriber.run(async |event| { println!("{event:?}"); Ok::<(), String>(()) }, CancellationToken::new()).await;
    /// # }
    /// ```
    #[cfg(feature = "redis")]
    pub fn channel(redis: RedisServer, channel: &str, database: PostgresServer) -> Subscriber {
        Subscriber { source: Source::Channel(Box::new(Channel::new(redis, channel, database))) }
    }

    /// Reads a Redis stream as a member of a consumer group.
    ///
    /// The group is created if it does not exist, and begins with the oldest entry of the stream.
    ///
    /// Each event goes to one member. Unfinished events of a member are redelivered when a member with the same name
    /// starts, so give each member a fixed name. After 30 s another member takes them over. **Order within an entity
    /// holds only for a group of one member**: several members handle events of one entity at the same time.
    ///
    /// If the stream is trimmed before the group has read it, the log says how many events were lost, and nothing is
    /// filled in: no member knows the events of the others. If Redis loses its data, the group begins again with the
    /// events that the relay rewrites, which may be those of its last 7 days. If you cannot accept either, use
    /// [`Subscriber::consumer`].
    ///
    /// It takes Redis 7. The user needs `+hello +eval +exists +xinfo|stream +xinfo|groups +xgroup|create +xgroup|setid
    /// +xreadgroup +xack +xclaim +xautoclaim` and the stream.
    ///
    /// ```no_run
    /// # async fn example(redis: pg_workflow_client::redis_server::RedisServer) {
    /// use pg_workflow_client::subscriber::Subscriber;
    /// use tokio_util::sync::CancellationToken;
    ///
    /// let mut subscriber = Subscriber::group(redis, "workflow:stream", "billing", "billing-1");
    /// subscriber.run(async |event| { println!("{event:?}"); Ok::<(), String>(()) }, CancellationToken::new()).await;
    /// # }
    /// ```
    #[cfg(feature = "redis")]
    pub fn group(redis: RedisServer, stream: &str, group: &str, member: &str) -> Subscriber {
        Subscriber { source: Source::Group(Group::new(redis, stream, group, member)) }
    }

    /// Returns the position after the delivered events, as it changes.
    ///
    /// It is `None` before the first event, and for sources other than [`Subscriber::follow`]. It can lag by up to
    /// 200 events, which are then redelivered.
    pub fn positions(&self) -> watch::Receiver<Option<String>> {
        match &self.source {
            Source::Follower(follower) => follower.positions.subscribe(),
            _ => watch::Sender::default().subscribe(),
        }
    }

    /// Delivers events until `shutdown`, one after another.
    ///
    /// At `shutdown`, waits for the current call of the handler and acknowledges its event.
    ///
    /// A handler that fails is called again with the same event, after a pause of up to a second, until it succeeds.
    /// The failure is logged once for each event. The number of events and their delay are logged at level `debug`
    /// every 10 s.
    pub async fn run<H, F, E>(&mut self, handler: H, shutdown: CancellationToken)
    where
        H: Fn(Event) -> F,
        F: Future<Output = Result<(), E>>,
        E: Display,
    {
        tracing::info!("subscribing to {}", self.source.describe());
        let mut log = Log::new();
        let mut delivery = Delivery::new(&handler, &shutdown);
        while !shutdown.is_cancelled() {
            let outcome = match shutdown.run_until_cancelled(self.source.next()).await {
                Some(Ok(events)) => {
                    log.servers_answer();
                    delivery.deliver(events, &mut self.source).await
                }
                Some(Err(error)) => Err(error),
                None => break,
            };
            if let Err(error) = outcome {
                self.source.disconnect();
                log.failed(&error);
                let _ = shutdown.run_until_cancelled(log.backoff.wait()).await;
            }
        }
        // Unacknowledged events are redelivered.
        if let Err(error) = self.source.close().await {
            tracing::debug!("not acknowledged: {error}");
        }
        self.source.disconnect();
    }
}

impl Source {
    fn describe(&self) -> String {
        match self {
            Source::Consumer(consumer) => consumer.describe(),
            Source::Follower(follower) => follower.describe(),
            #[cfg(feature = "redis")]
            Source::Channel(channel) => channel.describe(),
            #[cfg(feature = "redis")]
            Source::Group(group) => group.describe(),
        }
    }

    /// Returns the next events, or none for now. All previous ones have been handled. Connects if needed.
    async fn next(&mut self) -> Result<Vec<Event>, Error> {
        match self {
            Source::Consumer(consumer) => consumer.next().await,
            Source::Follower(follower) => follower.next(POLL).await,
            #[cfg(feature = "redis")]
            Source::Channel(channel) => channel.next().await,
            #[cfg(feature = "redis")]
            Source::Group(group) => group.next().await,
        }
    }

    /// Notes that the handler succeeded with the next event.
    fn handled(&mut self, event: &Event) {
        match self {
            Source::Consumer(consumer) => consumer.handled(event),
            Source::Follower(follower) => follower.handled(event),
            #[cfg(feature = "redis")]
            Source::Channel(channel) => channel.handled(event),
            #[cfg(feature = "redis")]
            Source::Group(group) => group.handled(),
        }
    }

    /// Acknowledges handled events, and renews the lease on the others.
    async fn acknowledge(&mut self) -> Result<(), Error> {
        match self {
            Source::Consumer(consumer) => consumer.acknowledge().await,
            Source::Follower(_) => Ok(()),
            #[cfg(feature = "redis")]
            Source::Channel(_) => Ok(()),
            #[cfg(feature = "redis")]
            Source::Group(group) => group.acknowledge().await,
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        match self {
            Source::Consumer(consumer) => consumer.close().await,
            _ => self.acknowledge().await,
        }
    }

    /// Drops the connection after an error: unhandled events are read again.
    fn disconnect(&mut self) {
        match self {
            Source::Consumer(consumer) => consumer.disconnect(),
            Source::Follower(follower) => follower.disconnect(),
            #[cfg(feature = "redis")]
            Source::Channel(channel) => channel.disconnect(),
            #[cfg(feature = "redis")]
            Source::Group(group) => group.disconnect(),
        }
    }
}

/// Logs outages.
struct Log {
    postgres: Outage,
    redis: Outage,
    backoff: Backoff,
}

impl Log {
    fn new() -> Log {
        Log { postgres: Outage::of("PostgreSQL"), redis: Outage::of("Redis"), backoff: Backoff::new() }
    }

    fn failed(&mut self, error: &Error) {
        match error {
            Error::Leased { .. } => tracing::info!("lost the lease: another subscriber reads"),
            #[cfg(feature = "redis")]
            Error::Redis(_) => self.redis.began(error),
            _ => self.postgres.began(error),
        }
    }

    fn servers_answer(&mut self) {
        self.postgres.ended();
        self.redis.ended();
        self.backoff.reset();
    }
}
