//! The relay to custom destinations, and to several: no event is lost if they fail.

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::event::Event;
use pg_workflow_client::publisher::{
    EventSet, Position, Published, Publisher, RedisChannel, RedisStream, StreamOptions,
};
use pg_workflow_client::redis_server::RedisServer;
use pg_workflow_client::{Error, relay};
use pg_workflow_tests::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use xtask::stack::redis::Redis;

/// A relay in its own thread.
struct Relay {
    status: Arc<relay::Status>,
    shutdown: CancellationToken,
    thread: JoinHandle<()>,
}

impl Relay {
    /// Runs until [`stop`](Relay::stop); returns once the relay leads.
    fn start(db: &Db, publisher: impl Publisher + 'static) -> Relay {
        let relay = Relay::begin(db, publisher);
        wait_until("a relay that leads", || relay.status.get().role == relay::Role::Leader);
        relay
    }

    fn begin(db: &Db, mut publisher: impl Publisher + 'static) -> Relay {
        let server = PostgresServer::parse(db.url()).unwrap();
        let (status, shutdown) = (Arc::new(relay::Status::default()), CancellationToken::new());
        let thread = std::thread::spawn({
            let (status, shutdown) = (status.clone(), shutdown.clone());
            move || {
                // Spawned, so that this compiles only if the future is `Send`.
                let runtime = Runtime::new().unwrap();
                let relaying = async move { relay::run(&server, "own", &mut publisher, status, shutdown).await };
                runtime.block_on(runtime.spawn(relaying)).unwrap();
            }
        });
        Relay { status, shutdown, thread }
    }

    fn stop(self) {
        self.shutdown.cancel();
        self.thread.join().unwrap();
    }
}

/// The contents of a destination, shared with the test.
type Store = Arc<Mutex<Vec<Event>>>;

fn written(db: &Db) -> Vec<i64> {
    let rows = db.connect().query("SELECT id FROM workflow.state_history ORDER BY id", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until the store has all events, and checks that first arrivals are in the order of versions.
fn assert_complete(db: &Db, store: &Store) {
    let written = written(db);
    wait_until("all events", || {
        let mut ids: Vec<i64> = store.lock().unwrap().iter().map(|event| event.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids == written
    });
    let mut versions = HashMap::new();
    for event in store.lock().unwrap().iter() {
        let last = versions.entry(event.entity_id).or_insert(0);
        assert!(event.version <= *last + 1, "version {} came before {}", event.version, *last + 1);
        *last = event.version.max(*last);
    }
}

/// A destination that fails in every way, repeatedly, and does not know its contents.
struct Unreliable {
    store: Store,
    calls: usize,
    is_connected: bool,
}

impl Publisher for Unreliable {
    fn name(&self) -> String {
        "the unreliable one".to_owned()
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.calls += 1;
        self.is_connected = !self.calls.is_multiple_of(4);
        if self.is_connected { Ok(()) } else { Err(Error::publisher("it does not accept connections")) }
    }

    async fn publish(&mut self, events: &[Event], after: Option<Position>) -> Result<Published, Error> {
        assert!(self.is_connected, "after an error, the relay must connect again");
        assert_eq!(after, None);
        self.calls += 1;
        // Fails before it has stored the events, halfway, or after.
        let taken = match self.calls % 5 {
            1 => 0,
            2 => events.len() / 2,
            _ => events.len(),
        };
        self.store.lock().unwrap().extend_from_slice(&events[..taken]);
        if self.calls % 5 < 4 {
            self.is_connected = false;
            return Err(Error::publisher("it has failed"));
        }
        Ok(Published::Done)
    }
}

#[test]
fn failing_publisher_misses_no_event() {
    let db = Db::new();
    let store = Store::default();
    let relay = Relay::start(&db, Unreliable { store: store.clone(), calls: 0, is_connected: false });
    for _ in 0..3 {
        create_finished_tasks(&mut db.connect(), 20);
        assert_complete(&db, &store);
    }
    relay.stop();
    // It resumes after a stop.
    create_finished_tasks(&mut db.connect(), 5);
    let relay = Relay::start(&db, Unreliable { store: store.clone(), calls: 0, is_connected: false });
    assert_complete(&db, &store);
    relay.stop();
}

/// A destination that knows its end and its contents, and loses every third response.
struct Counting {
    store: Store,
    calls: usize,
}

impl Counting {
    fn end(&self) -> Position {
        [i64::try_from(self.store.lock().unwrap().len()).unwrap(), 0]
    }
}

impl Publisher for Counting {
    fn name(&self) -> String {
        "the counting one".to_owned()
    }

    async fn position(&mut self) -> Result<Option<Position>, Error> {
        Ok(Some(self.end()))
    }

    async fn holds(&mut self, [after, _]: Position, [up_to, _]: Position) -> Result<EventSet, Error> {
        let range = usize::try_from(after).unwrap()..usize::try_from(up_to).unwrap();
        Ok(self.store.lock().unwrap()[range].iter().collect())
    }

    async fn publish(&mut self, events: &[Event], after: Option<Position>) -> Result<Published, Error> {
        if after != Some(self.end()) {
            return Ok(Published::EndsAt(self.end()));
        }
        self.store.lock().unwrap().extend_from_slice(events);
        self.calls += 1;
        match self.calls % 3 {
            0 => Err(Error::publisher("the answer is lost")),
            _ => Ok(Published::UpTo(self.end())),
        }
    }
}

#[test]
fn publisher_with_positions_gets_each_event_once() {
    let db = Db::new();
    let store = Store::default();
    let relays: Vec<Relay> = (0..2).map(|_| Relay::begin(&db, Counting { store: store.clone(), calls: 0 })).collect();
    wait_until("a relay that leads", || relays.iter().any(|relay| relay.status.get().role == relay::Role::Leader));
    for round in 0..4 {
        create_finished_tasks(&mut db.connect(), 20);
        assert_complete(&db, &store);
        if round == 2 {
            // Half of the events are lost, perhaps more than since the last relay checkpoint.
            store.lock().unwrap().truncate(100);
        }
    }
    assert_eq!(store.lock().unwrap().len(), written(&db).len(), "exactly once");
    for relay in relays {
        relay.stop();
    }
}

/// A destination that takes long to tell where it ends, or what it holds.
struct Slow {
    inner: Counting,
    is_released: CancellationToken,
    hides_its_end: bool,
}

impl Publisher for Slow {
    fn name(&self) -> String {
        self.inner.name()
    }

    async fn position(&mut self) -> Result<Option<Position>, Error> {
        if self.hides_its_end {
            self.is_released.cancelled().await;
        }
        self.inner.position().await
    }

    async fn holds(&mut self, after: Position, up_to: Position) -> Result<EventSet, Error> {
        self.is_released.cancelled().await;
        self.inner.holds(after, up_to).await
    }

    async fn publish(&mut self, events: &[Event], after: Option<Position>) -> Result<Published, Error> {
        self.inner.publish(events, after).await
    }
}

#[test]
fn relay_keeps_its_lease_while_it_compares() {
    keep_the_lease(false);
}

#[test]
fn relay_keeps_its_lease_while_it_looks_for_the_end() {
    keep_the_lease(true);
}

fn keep_the_lease(hides_its_end: bool) {
    let (db, store, is_released) = (Db::new(), Store::default(), CancellationToken::new());
    let slow = || {
        let inner = Counting { store: store.clone(), calls: 0 };
        Slow { inner, is_released: is_released.clone(), hides_its_end }
    };
    let client = &mut db.connect();
    let relays = [Relay::start(&db, slow()), Relay::begin(&db, slow())];
    let lease = "SELECT lease_number, extract(epoch FROM lease_expires_at - lease_backend_start)::float8 FROM workflow.consumers";
    // Longer than a lease lasts.
    wait_until("renewals", || client.query_one(lease, &[]).unwrap().get::<_, f64>(1) > 8.0);
    assert_eq!(client.query_one(lease, &[]).unwrap().get::<_, i64>(0), 1, "the first relay still has it");
    is_released.cancel();
    create_finished_tasks(client, 20);
    assert_complete(&db, &store);
    relays.into_iter().for_each(Relay::stop);
}

#[test]
fn two_publishers_both_get_all_events() {
    let db = Db::new();
    let redis = Redis::start("publisher-both").unwrap();
    let server = RedisServer::parse(&redis.url()).unwrap();
    let stream = RedisStream::new(server, StreamOptions { channel: None, ..StreamOptions::default() });
    let store = Store::default();
    let own = Unreliable { store: store.clone(), calls: 0, is_connected: false };
    let subscriber = Subscriber::start(&redis.url());
    let relay = Relay::start(&db, (stream, own));
    for _ in 0..2 {
        create_finished_tasks(&mut db.connect(), 20);
        assert_complete(&db, &store);
        redis.kill().unwrap();
        redis.start_again().unwrap();
    }
    create_finished_tasks(&mut db.connect(), 20);
    assert_complete(&db, &store);
    // At least once: failures of the other publisher repeat events here too.
    let entries: Vec<(String, Vec<String>)> = redis.command(&["XRANGE", "workflow:stream", "-", "+"]).unwrap();
    let in_stream: std::collections::HashSet<i64> =
        entries.iter().map(|(id, _)| id.split_once('-').unwrap().1.parse().unwrap()).collect();
    let newest = written(&db).split_off(2 * 61);
    assert_eq!(newest.iter().filter(|id| !in_stream.contains(id)).count(), 0);
    assert!(subscriber.is_empty(), "a stream without a channel publishes nothing");
    relay.stop();
}

#[test]
fn redis_channel_alone_gets_all_events() {
    let db = Db::new();
    let redis = Redis::start("publisher-channel").unwrap();
    let subscriber = Subscriber::start(&redis.url());
    let channel = RedisChannel::new(RedisServer::parse(&redis.url()).unwrap(), "workflow:events");
    let relay = Relay::start(&db, channel);
    let assert_received = |since: usize| {
        let written = written(&db);
        wait_until("all events", || {
            let received: std::collections::HashSet<i64> =
                subscriber.events().iter().filter_map(|event| event["id"].as_i64()).collect();
            written[since..].iter().all(|id| received.contains(id))
        });
    };
    create_finished_tasks(&mut db.connect(), 20);
    assert_received(0);
    assert_eq!(redis.command::<usize>(&["DBSIZE"]).unwrap(), 0);
    redis.kill().unwrap();
    // No subscriber can receive these yet.
    create_finished_tasks(&mut db.connect(), 5);
    wait_until("the outage", || relay.status.get().publisher_error.is_some());
    relay.stop();
    redis.start_again().unwrap();
    subscriber.wait_subscribed(2);
    let channel = RedisChannel::new(RedisServer::parse(&redis.url()).unwrap(), "workflow:events");
    let relay = Relay::start(&db, channel);
    assert_received(61);
    relay.stop();
}
