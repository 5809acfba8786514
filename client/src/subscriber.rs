//! Delivery events to your code, from wherever they come: one handler, four sources.
//!
//! | source | for whom | what is missed while it does not run |
//! |---|---|---|
//! | [`Subscriber::consumer`] | whoever must not miss anything: the database keeps the place under a name | nothing |
//! | [`Subscriber::follow`] | whoever begins with the present, or keeps the position himself; leaves no trace in the database | what happens before the position |
//! | `Subscriber::channel` | many that look on: live from Redis, and only outages are read from PostgreSQL | everything |
//! | `Subscriber::group` | workers that share events: a consumer group of the Redis stream | what the stream is shortened by |
//!
//! An event is handed over until the handler succeeds, and only then the next: within an entity they come in the order of
//! their versions (but see `Subscriber::group`). Each comes at least once: after an outage, or a crash of yours, some come
//! again. `(entity_id, version)` identifies an event, for whoever must know. A server that is away is waited for, and the
//! log says so once; what happened meanwhile follows.
//!
//! ```no_run
//! use pg_workflow_client::connect::PostgresServer;
//! use pg_workflow_client::event::Event;
//! use pg_workflow_client::subscriber::Subscriber;
//! use tokio_util::sync::CancellationToken;
//!
//! async fn bill(event: Event) -> Result<(), std::io::Error> {
//!     println!("{} is {} now", event.entity_id, event.new_state);
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

/// How long a source waits for events before it is asked again. The server is then seen to be there.
const POLL: Duration = Duration::from_secs(1);
/// Events read at once; a handler that is slow has at most these in memory.
const BATCH: i32 = 200;
/// How often what has been handled is acknowledged, in the midst of a batch or of a long handler too.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_secs(1);

/// Hands events to a handler. See the [module](self).
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
    /// Reads the feed as the named consumer, whose place the database keeps. It is created where it does not exist, and
    /// begins with what commits from then on.
    ///
    /// Of several with the same name one is given events, and the others take over when it ends or hangs (after 10 s).
    /// The role needs `create_consumer`, `read_events`, `ack_events`, `lease_consumer` and `release_consumer`.
    pub fn consumer(server: PostgresServer, name: &str) -> Subscriber {
        Subscriber { source: Source::Consumer(Consumer::new(server, name)) }
    }

    /// Follows the feed from a position, or from the present: the database keeps nothing. Whoever wants to go on there
    /// another time keeps [`positions`](Subscriber::positions). The role needs `current_position` and `follow_events`.
    ///
    /// A position that the database does not know (it has lost its latest events, or it is another database) is said in
    /// the log, and the present takes its place.
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

    /// Listens to a Redis channel in which a relay publishes, from the present on.
    ///
    /// Versions make up for what a channel lacks: an event that has been handed over is dropped when it comes again
    /// (100,000 entities are remembered at least), and one that skips versions waits until the missing ones have been
    /// fetched from `state_history`. After each outage of the channel, and where the handler is so slow that 10,000
    /// messages wait, the feed is read instead, from a position before which the channel is known to have brought
    /// everything.
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

    /// Reads a Redis stream as the member `member` of a consumer group. The group is created where it does not exist, and
    /// begins with the oldest entry of the stream.
    ///
    /// Each event goes to one member. What a member had not finished comes again when one of the same name starts, so
    /// give it a name that stays; another takes it over when it has been left alone for 30 s. **Order within an entity
    /// holds for a group of one member only**: several handle events of one entity at the same time.
    ///
    /// Where the stream is shortened before the group has read it, the log says how many events it never got, and
    /// nothing is filled in: no member knows what the others have had. Where Redis comes back empty, the group begins
    /// again with what the relay writes anew, which may be the events of its last 7 days. Whoever minds either takes
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

    /// The position after all that has been handed over, as it changes: none before the first event, and always none for
    /// other sources than [`Subscriber::follow`]. It comes up to 200 events late, which then come again.
    pub fn positions(&self) -> watch::Receiver<Option<String>> {
        match &self.source {
            Source::Follower(follower) => follower.positions.subscribe(),
            _ => watch::Sender::default().subscribe(),
        }
    }

    /// Hands events over until `shutdown`, one after another. The handler that is at work then is waited for; what it
    /// did is acknowledged.
    ///
    /// A handler that fails is called again with the same event, after a pause of up to a second, until it succeeds. The
    /// log says so once for each event. How many events were handed over, and how late, is logged as `debug`, every 10 s.
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
        // What cannot be acknowledged comes again.
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

    /// The next events, or none for now. The ones before have all been handed over. Connects where it is not.
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

    /// The handler has succeeded with the next of the events.
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

    /// Acknowledges what has been handled, and keeps the rest from being given to others.
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

    /// After an error: what was being read is read again.
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

/// What people are told of outages.
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
