//! One handler, four sources: nothing lost and order kept, through outages of whatever is between.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::event::Event;
use pg_workflow_client::redis_server::RedisServer;
use pg_workflow_client::subscriber::Subscriber as Source;
use pg_workflow_state_machine::State;
use pg_workflow_tests::chaos::proxy::{Cut, Proxy};
use pg_workflow_tests::*;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::util::SubscriberInitExt;
use xtask::stack::postgres::Shutdown;
use xtask::stack::redis::Redis;

const CHANNEL: &str = "workflow:events";
const STREAM: &str = "workflow:stream";

/// A subscriber in a thread of its own, whose handler fails with every fifth call.
struct Running {
    handled: Arc<Mutex<Vec<Event>>>,
    log: Log,
    positions: watch::Receiver<Option<String>>,
    shutdown: CancellationToken,
    thread: JoinHandle<()>,
}

/// What a subscriber says, from its thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(text).count()
    }
}

impl Running {
    fn start(mut source: Source) -> Running {
        let handled = Arc::new(Mutex::new(Vec::new()));
        let (positions, shutdown, log) = (source.positions(), CancellationToken::new(), Log::default());
        let thread = std::thread::spawn({
            let (handled, shutdown, log) = (handled.clone(), shutdown.clone(), log.clone());
            move || {
                let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
                let _log = log.set_default();
                let calls = Mutex::new(0);
                let handler = move |event: Event| {
                    let mut calls = calls.lock().unwrap();
                    *calls += 1;
                    let fails = *calls % 5 == 0;
                    if !fails {
                        handled.lock().unwrap().push(event);
                    }
                    async move { if fails { Err("it fails now and then") } else { Ok(()) } }
                };
                // Spawned, so that this fails to compile where it could not be.
                let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(runtime.spawn(async move { source.run(handler, shutdown).await })).unwrap();
            }
        });
        Running { handled, log, positions, shutdown, thread }
    }

    fn handled(&self) -> Vec<Event> {
        self.handled.lock().unwrap().clone()
    }

    fn stop(self) -> Vec<Event> {
        self.shutdown.cancel();
        self.thread.join().unwrap();
        let handled = self.handled.lock().unwrap();
        handled.clone()
    }

    /// Waits until all events after this one have been handled, each entity's in the order of its versions.
    fn assert_complete(&self, db: &Db, after: i64) {
        let sql = "SELECT id FROM workflow.state_history WHERE id > $1";
        let rows = db.connect().query(sql, &[&after]).unwrap();
        let written: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        wait_until("all events", || {
            let handled: HashSet<i64> = self.handled().iter().map(|event| event.id).collect();
            written.iter().all(|id| handled.contains(id))
        });
        assert_in_order(&self.handled());
    }

    /// Makes events until it handles one of them: it is there.
    fn wait_ready(&self, db: &Db) -> i64 {
        let client = &mut db.connect();
        wait_until("the subscriber", || {
            create_task(client);
            std::thread::sleep(Duration::from_millis(100));
            !self.handled().is_empty()
        });
        last_id(db)
    }
}

fn assert_in_order(events: &[Event]) {
    let mut versions = HashMap::new();
    for event in events {
        let last = versions.entry(event.entity_id).or_insert(event.version - 1);
        assert!(event.version <= *last + 1, "version {} came before {}", event.version, *last + 1);
        *last = event.version.max(*last);
    }
}

fn last_id(db: &Db) -> i64 {
    db.connect().query_one("SELECT coalesce(max(id), 0) FROM workflow.state_history", &[]).unwrap().get(0)
}

fn move_some(db: &Db, tasks: usize) {
    let client = &mut db.connect();
    for task in create_tasks(client, tasks) {
        transition(client, "task_instance", task, State::Queued, State::Running).unwrap();
        transition(client, "task_instance", task, State::Running, State::Success).unwrap();
    }
}

/// What a relay would publish of these events.
fn published(db: &Db, which: &str) -> Vec<String> {
    let fields = "id, entity_type, entity_id, dag_id, dag_run_id, task_id, old_state, new_state, version, changed_at, actor, metadata";
    let sql = format!("SELECT to_jsonb(h)::text FROM (SELECT {fields} FROM workflow.state_history WHERE {which}) AS h");
    db.connect().query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn at(port: u16) -> PostgresServer {
    PostgresServer::parse(&format!("postgres://postgres@127.0.0.1:{port}/workflow")).unwrap()
}

fn redis_at(port: u16) -> RedisServer {
    RedisServer::parse(&format!("redis://127.0.0.1:{port}")).unwrap()
}

/// Two ways to one server: when nothing comes through the first, the second is there.
fn two_ways(port: u16) -> [Proxy; 2] {
    [(); 2].map(|()| Proxy::start(port).unwrap())
}

#[test]
fn consumer_misses_no_event_through_outages() {
    let (cluster, db) = own_cluster("subscriber-consumer", &[]);
    let way = Proxy::start(cluster.port()).unwrap();
    let source = || Source::consumer(at(way.port()), "billing");
    let running = Running::start(source());
    let start = running.wait_ready(&db);
    move_some(&db, 20);
    way.cut(Cut::Reset);
    move_some(&db, 20);
    running.assert_complete(&db, start);
    // Its session hangs, with the connection intact: it must notice by itself, and begin another.
    let sql = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%workflow.read_events%' AND pid <> pg_backend_pid()";
    let pid = Pid::from_raw(db.connect().query_one(sql, &[]).unwrap().get(0));
    kill(pid, Signal::SIGSTOP).unwrap();
    move_some(&db, 20);
    running.assert_complete(&db, start);
    kill(pid, Signal::SIGCONT).unwrap();
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    move_some(&db, 20);
    running.assert_complete(&db, start);
    let last = last_id(&db);
    running.stop();
    // While it does not run, the database keeps its place.
    move_some(&db, 20);
    let running = Running::start(source());
    running.assert_complete(&db, last);
    assert!(running.stop().iter().all(|event| event.id > last), "what was acknowledged does not come again");
}

#[test]
fn second_consumer_of_a_name_takes_over() {
    let db = Db::new();
    let source = || Source::consumer(PostgresServer::parse(db.url()).unwrap(), "pair");
    let first = Running::start(source());
    let start = first.wait_ready(&db);
    let second = Running::start(source());
    move_some(&db, 20);
    first.assert_complete(&db, start);
    let last = last_id(&db);
    first.stop();
    move_some(&db, 20);
    second.assert_complete(&db, last);
    assert!(second.stop().iter().all(|event| event.id > last));
}

#[test]
fn follower_misses_no_event_and_resumes_from_position() {
    let (cluster, db) = own_cluster("subscriber-follow", &[]);
    let way = Proxy::start(cluster.port()).unwrap();
    let running = Running::start(Source::follow(at(way.port()), None));
    let start = running.wait_ready(&db);
    move_some(&db, 20);
    way.cut(Cut::Finish);
    move_some(&db, 20);
    running.assert_complete(&db, start);
    cluster.stop(Shutdown::Immediate).unwrap();
    cluster.start_again().unwrap();
    move_some(&db, 20);
    running.assert_complete(&db, start);
    // The position follows when the next events are asked for.
    let last = last_id(&db);
    wait_until("the position", || {
        let position = running.positions.borrow().clone();
        let sql = "SELECT count(*) FROM workflow.follow_events($1)";
        db.connect().query_one(sql, &[&position]).unwrap().get::<_, i64>(0) == 0
    });
    let position = running.positions.borrow().clone();
    running.stop();
    move_some(&db, 20);
    let running = Running::start(Source::follow(at(way.port()), position));
    running.assert_complete(&db, last);
    assert!(running.stop().iter().all(|event| event.id > last));
    let consumers = db.connect().query_one("SELECT count(*) FROM workflow.consumers", &[]).unwrap();
    assert_eq!(consumers.get::<_, i64>(0), 0, "it leaves no trace");
    // One of nowhere is said, and the present taken.
    let running = Running::start(Source::follow(at(way.port()), Some("nonsense".to_owned())));
    running.wait_ready(&db);
    running.stop();
}

#[test]
fn channel_gaps_are_filled_after_each_outage_without_repeats() {
    let (cluster, db) = own_cluster("subscriber-channel", &[]);
    let redis = Redis::start("subscriber-channel").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("this relay works", PATIENCE).unwrap();
    let ways = two_ways(redis.port());
    let postgres = Proxy::start(cluster.port()).unwrap();
    let [first, second] = [ways[0].port(), ways[1].port()];
    let url = format!("redis://127.0.0.1:{first},redis://127.0.0.1:{second}");
    let running = Running::start(Source::channel(RedisServer::parse(&url).unwrap(), CHANNEL, at(postgres.port())));
    let start = running.wait_ready(&db);
    move_some(&db, 20);
    running.assert_complete(&db, start);
    for _ in 0..3 {
        ways.iter().for_each(Proxy::refuse);
        // The channel brings these to others, not to this one.
        move_some(&db, 20);
        ways.iter().for_each(Proxy::pass);
        move_some(&db, 20);
        running.assert_complete(&db, start);
    }
    redis.kill().unwrap();
    move_some(&db, 20);
    redis.start_again().unwrap();
    move_some(&db, 20);
    running.assert_complete(&db, start);
    // Half-open: it must notice by itself, and take the other way.
    ways[0].blackhole();
    move_some(&db, 20);
    running.assert_complete(&db, start);
    ways[0].pass();
    // Once the feed is read to its end, the channel goes on without PostgreSQL. What happens in an outage of both comes
    // when PostgreSQL is back.
    std::thread::sleep(Duration::from_secs(1));
    postgres.refuse();
    move_some(&db, 20);
    running.assert_complete(&db, start);
    ways.iter().for_each(|way| way.cut(Cut::Reset));
    move_some(&db, 20);
    postgres.pass();
    running.assert_complete(&db, start);
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    move_some(&db, 20);
    running.assert_complete(&db, start);
    let handled = running.stop();
    assert_eq!(handled.iter().map(|event| event.id).collect::<HashSet<_>>().len(), handled.len(), "each once");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

/// The relay is late: what it has not published when the channel breaks is older than any position taken meanwhile.
#[test]
fn channel_fills_in_events_published_late_during_an_outage() {
    let db = Db::new();
    let redis = Redis::start("subscriber-late").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("this relay works", PATIENCE).unwrap();
    let way = Proxy::start(redis.port()).unwrap();
    let postgres = PostgresServer::parse(db.url()).unwrap();
    let running = Running::start(Source::channel(redis_at(way.port()), CHANNEL, postgres));
    let start = running.wait_ready(&db);
    move_some(&db, 20);
    running.assert_complete(&db, start);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
    let before = last_id(&db);
    move_some(&db, 20);
    // Positions are taken every 2 s: several are, behind what is still to be published.
    std::thread::sleep(Duration::from_secs(7));
    // Of all that, the first event is published while the channel works, and the rest while it does not.
    let first = published(&db, &format!("id > {before} ORDER BY id LIMIT 1"));
    redis.command::<usize>(&["PUBLISH", CHANNEL, &first[0]]).unwrap();
    wait_until("the first event", || running.handled().last().is_some_and(|event| event.id > before));
    way.refuse();
    let length = || redis.command::<usize>(&["XLEN", STREAM]).unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    let all = last_id(&db);
    wait_until("the stream", || i64::try_from(length()).unwrap() >= all);
    way.pass();
    running.assert_complete(&db, start);
    running.stop();
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn channel_corrects_skipped_and_repeated_versions() {
    let db = Db::new();
    let redis = Redis::start("subscriber-gap").unwrap();
    let client = &mut db.connect();
    // Everything before is none of its business.
    let task = create_task(client);
    let source = Source::channel(redis_at(redis.port()), CHANNEL, PostgresServer::parse(db.url()).unwrap());
    let running = Running::start(source);
    let subscribed = || redis.command::<Vec<(String, usize)>>(&["PUBSUB", "NUMSUB", CHANNEL]).unwrap()[0].1 == 1;
    wait_until("the subscription", subscribed);
    // What it fills in at its beginning is over.
    std::thread::sleep(Duration::from_secs(1));
    let path = [State::Queued, State::Running, State::Retrying, State::Running, State::Success];
    for pair in path.windows(2) {
        transition(client, "task_instance", task, pair[0], pair[1]).unwrap();
    }
    let versions = published(&db, &format!("entity_id = '{task}' ORDER BY version"));
    for version in [2, 2, 5, 3, 1] {
        redis.command::<usize>(&["PUBLISH", CHANNEL, &versions[version - 1]]).unwrap();
    }
    redis.command::<usize>(&["PUBLISH", CHANNEL, "no event"]).unwrap();
    wait_until("the missing versions", || running.handled().len() >= 4);
    let handled: Vec<i64> = running.stop().iter().map(|event| event.version).collect();
    assert_eq!(handled, [2, 3, 4, 5]);
}

#[test]
fn group_shares_a_stream_and_misses_no_event() {
    let db = Db::new();
    // It keeps its data, so that the group is still there afterwards.
    let redis = Redis::start_with("subscriber-group", &["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("this relay works", PATIENCE).unwrap();
    move_some(&db, 10);
    let ways = two_ways(redis.port());
    let [first, second] = [ways[0].port(), ways[1].port()];
    let url = format!("redis://127.0.0.1:{first},redis://127.0.0.1:{second}");
    // A new group begins with what the stream has.
    let running = Running::start(Source::group(RedisServer::parse(&url).unwrap(), STREAM, "billing", "one"));
    running.assert_complete(&db, 0);
    ways.iter().for_each(|way| way.cut(Cut::Reset));
    move_some(&db, 20);
    running.assert_complete(&db, 0);
    // Half-open: it must notice by itself, and take the other way.
    ways[0].blackhole();
    move_some(&db, 20);
    running.assert_complete(&db, 0);
    ways[0].pass();
    redis.kill().unwrap();
    move_some(&db, 20);
    redis.start_again().unwrap();
    move_some(&db, 20);
    running.assert_complete(&db, 0);
    let pending =
        || redis.command::<(usize, redis::Value, redis::Value, redis::Value)>(&["XPENDING", STREAM, "billing"]);
    wait_until("acknowledgements", || pending().unwrap().0 == 0);
    running.stop();

    // What another member of our name had not finished comes first, then what is new, and then what one left alone.
    move_some(&db, 5);
    let all = last_id(&db);
    wait_until("the stream", || redis.command::<usize>(&["XLEN", STREAM]).unwrap() as i64 >= all);
    let take = |member: &str| -> Vec<String> {
        let read = ["XREADGROUP", "GROUP", "billing", member, "COUNT", "4", "STREAMS", STREAM, ">"];
        type Entries = Vec<(String, Vec<String>)>;
        let mut streams: Vec<(String, Entries)> = redis.command(&read).unwrap();
        streams.remove(0).1.into_iter().map(|(id, _)| id).collect()
    };
    let id = |entry: &String| -> i64 { entry.split_once('-').unwrap().1.parse().unwrap() };
    let (dead, own) = (take("dead"), take("two"));
    let running = Running::start(Source::group(redis_at(redis.port()), STREAM, "billing", "two"));
    wait_until("what was left alone", || {
        let handled: HashSet<i64> = running.handled().iter().map(|event| event.id).collect();
        dead.iter().all(|entry| handled.contains(&id(entry)))
    });
    wait_until("acknowledgements", || pending().unwrap().0 == 0);
    let handled: Vec<i64> = running.stop().iter().map(|event| event.id).collect();
    assert_eq!(handled[..4], own.iter().map(id).collect::<Vec<_>>());
    assert_eq!(handled.len(), 16, "five tasks and their run, each event once");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn group_starts_again_if_redis_returns_empty() {
    let db = Db::new();
    let redis = Redis::start("subscriber-empty").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("this relay works", PATIENCE).unwrap();
    let running = Running::start(Source::group(redis_at(redis.port()), STREAM, "billing", "one"));
    move_some(&db, 20);
    running.assert_complete(&db, 0);
    redis.kill().unwrap();
    move_some(&db, 20);
    redis.start_again().unwrap();
    move_some(&db, 20);
    running.assert_complete(&db, 0);
    assert_eq!(["Redis is away", "Redis is back"].map(|text| running.log.count(text)), [1, 1], "said once");
    running.stop();
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn group_reports_number_of_trimmed_events() {
    let db = Db::new();
    let redis = Redis::start("subscriber-trimmed").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("this relay works", PATIENCE).unwrap();
    let length = || i64::try_from(redis.command::<usize>(&["XLEN", STREAM]).unwrap()).unwrap();
    move_some(&db, 10);
    wait_until("the stream", || length() == 31);
    // What has gone before there is a group is no loss.
    redis.command::<usize>(&["XTRIM", STREAM, "MAXLEN", "4"]).unwrap();
    let source = || Source::group(redis_at(redis.port()), STREAM, "slow", "one");
    let running = Running::start(source());
    wait_until("four events", || running.handled().len() == 4);
    assert_eq!(running.log.count("was shortened"), 0);
    running.stop();
    for lost in [27, 3] {
        let tasks = usize::try_from(lost / 3).unwrap();
        let before = length();
        move_some(&db, tasks);
        wait_until("the stream", || length() == before + lost + 1);
        redis.command::<usize>(&["XTRIM", STREAM, "MAXLEN", "1"]).unwrap();
        let running = Running::start(source());
        wait_until("the last event", || running.handled().last().is_some_and(|event| event.id == last_id(&db)));
        assert_eq!(running.log.count(&format!("was shortened by {lost} events")), 1);
        running.stop();
    }
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}
