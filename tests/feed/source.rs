//! The relay knows an event by its content: a database that reuses ids loses no event in the stream.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_tests::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use xtask::stack::postgres::{FAST, Postgres, Shutdown};
use xtask::stack::process::clean_environment;
use xtask::stack::redis::Redis;
use xtask::stack::scratch::Scratch;
use xtask::stack::server::Server;

const STREAM: &str = "workflow:stream";

/// An event's id, entity, version and time.
type Key = (i64, String, i64, String);

fn start(database_url: &str, redis: &Redis, more: &[(&str, &str)]) -> Server {
    let url = redis.url();
    let envs = [("DATABASE_URL", database_url), ("REDIS_URL", &url), ("WORKFLOW_NO_HTTP", "1")];
    Server::start("source", &server_binary(), &["serve"], &[&envs[..], more].concat()).expect("a relay")
}

fn lead(database_url: &str, redis: &Redis, more: &[(&str, &str)]) -> Server {
    let server = start(database_url, redis, more);
    server.wait_line("became leader", PATIENCE).unwrap();
    server
}

fn signal(server: &Server, signal: Signal) {
    kill(Pid::from_raw(server.pid().cast_signed()), signal).expect("it runs");
}

fn history(db: &Db) -> Vec<Key> {
    let sql = "SELECT id, entity_id::text, version,
                   to_char(changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
               FROM workflow.state_history ORDER BY id";
    let rows = db.connect().query(sql, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

/// Counts the entries of each event in the stream.
fn stream(redis: &Redis) -> HashMap<Key, usize> {
    let entries: Vec<(String, HashMap<String, String>)> = redis.command(&["XRANGE", STREAM, "-", "+"]).unwrap();
    let mut events = HashMap::new();
    for (_, fields) in entries {
        let event: serde_json::Value = serde_json::from_str(&fields["event"]).expect("JSON");
        let text = |name: &str| event[name].as_str().expect("a text").to_owned();
        let number = |name: &str| event[name].as_i64().expect("a number");
        *events.entry((number("id"), text("entity_id"), number("version"), text("changed_at"))).or_default() += 1;
    }
    events
}

/// Waits until the stream holds each event of the history, exactly once.
fn assert_stream_holds_history(db: &Db, redis: &Redis) {
    let written = history(db);
    let missing = || {
        let stream = stream(redis);
        written.iter().filter(|event| !stream.contains_key(event)).count()
    };
    let deadline = Instant::now() + PATIENCE / 3;
    while missing() > 0 {
        assert!(Instant::now() < deadline, "{} of {} events are missing", missing(), written.len());
        std::thread::sleep(Duration::from_millis(50));
    }
    let stream = stream(redis);
    assert!(written.iter().all(|event| stream[event] == 1), "an event is doubled");
}

/// Waits until the last relay checkpoint is at the end of the stream.
fn wait_for_checkpoint(db: &Db, redis: &Redis) {
    let last: Vec<(String, Vec<String>)> = redis.command(&["XREVRANGE", STREAM, "+", "-", "COUNT", "1"]).unwrap();
    let saved = "SELECT coalesce(array_to_string(max(position), '-'), '') FROM workflow.consumer_checkpoints";
    let client = &mut db.connect();
    wait_until("a checkpoint", || client.query_one(saved, &[]).unwrap().get::<_, String>(0) == last[0].0);
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A copy of a stopped cluster's files.
struct ColdCopy {
    folder: Scratch,
    data: PathBuf,
}

impl ColdCopy {
    fn take(cluster: &Postgres) -> ColdCopy {
        let (folder, data) = (Scratch::new("cold-copy").unwrap(), cluster.data());
        cluster.stop(Shutdown::Fast).unwrap();
        run(Command::new("cp").arg("-a").arg(&data).arg(folder.path().join("data")));
        cluster.start_again().unwrap();
        ColdCopy { folder, data }
    }

    fn restore(&self, cluster: &Postgres) {
        cluster.stop(Shutdown::Immediate).unwrap();
        std::fs::remove_dir_all(&self.data).unwrap();
        run(Command::new("cp").arg("-a").arg(self.folder.path().join("data")).arg(&self.data));
        cluster.start_again().unwrap();
    }
}

#[test]
fn new_events_are_relayed_after_restored_cold_copy() {
    let (cluster, db) = own_cluster("source-cold", &[]);
    let redis = Redis::start("source-cold").unwrap();
    let relay = lead(db.url(), &redis, &[]);
    create_finished_tasks(&mut db.connect(), 10);
    assert_stream_holds_history(&db, &redis);
    let copy = ColdCopy::take(&cluster);
    create_finished_tasks(&mut db.connect(), 50);
    assert_stream_holds_history(&db, &redis);

    // Under a relay that runs, but finds all new events at once.
    signal(&relay, Signal::SIGSTOP);
    copy.restore(&cluster);
    create_finished_tasks(&mut db.connect(), 40);
    signal(&relay, Signal::SIGCONT);
    assert_stream_holds_history(&db, &redis);
    let line = relay.wait_line("has another event", PATIENCE).unwrap();
    assert!(line.contains("version"), "it names both: {line}");
    assert_eq!(relay.terminate().unwrap().code(), Some(0));

    // While no relay runs.
    copy.restore(&cluster);
    create_finished_tasks(&mut db.connect(), 45);
    let relay = lead(db.url(), &redis, &[]);
    assert_stream_holds_history(&db, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
}

#[test]
fn new_events_are_relayed_after_asynchronous_promotion() {
    let (primary, db) = own_cluster("source-async", &[]);
    let redis = Redis::start("source-async").unwrap();
    let standby = primary.standby("source-async").unwrap();
    let urls = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/workflow", primary.port(), standby.port());
    let relay = lead(&format!("{urls}?target_session_attrs=read-write"), &redis, &[]);
    create_finished_tasks(&mut db.connect(), 10);
    assert_stream_holds_history(&db, &redis);
    // Without one the relay expects nothing of the stream.
    wait_for_checkpoint(&db, &redis);
    // The relay does not wait until it is on disk: a commit that does comes after it.
    primary.psql("workflow", "SELECT pg_logical_emit_message(true, 'after', '')").unwrap();
    let replayed = format!(
        "SELECT pg_last_wal_replay_lsn() >= '{}'",
        primary.psql("workflow", "SELECT pg_current_wal_lsn()").unwrap()
    );
    wait_until("the standby", || standby.psql("workflow", &replayed).unwrap() == "t");
    // From here on it receives nothing.
    standby.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()").unwrap();
    let receives = "SELECT count(*) FROM pg_stat_wal_receiver";
    wait_until("a standby that does not follow", || standby.psql("postgres", receives).unwrap() == "0");
    create_finished_tasks(&mut db.connect(), 50);
    assert_stream_holds_history(&db, &redis);

    signal(&relay, Signal::SIGSTOP);
    drop(db.without_verification());
    primary.kill().unwrap();
    standby.promote().unwrap();
    let promoted = Db::at(standby.url("workflow"));
    create_finished_tasks(&mut promoted.connect(), 40);
    signal(&relay, Signal::SIGCONT);
    assert_stream_holds_history(&promoted, &redis);
    relay.wait_line("events that the database does not", PATIENCE).unwrap();
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
}

/// A dump of a database, which can replace it.
struct Dump {
    folder: Scratch,
}

impl Dump {
    fn take(cluster: &Postgres) -> Dump {
        let dump = Dump { folder: Scratch::new("dump").unwrap() };
        run(program(cluster, "pg_dump").args(["-Fc", "--dbname", &cluster.url("workflow"), "--file"]).arg(dump.file()));
        dump
    }

    fn file(&self) -> PathBuf {
        Path::new(self.folder.path()).join("dump")
    }

    fn restore(&self, cluster: &Postgres) {
        cluster.psql("postgres", "DROP DATABASE IF EXISTS workflow WITH (FORCE)").unwrap();
        cluster.psql("postgres", "CREATE DATABASE workflow").unwrap();
        run(program(cluster, "pg_restore").args(["--dbname", &cluster.url("workflow")]).arg(self.file()));
    }
}

fn program(cluster: &Postgres, name: &str) -> Command {
    let mut command = Command::new(cluster.install().program(name));
    clean_environment(&mut command);
    command
}

/// The source that a refusal names, for the flag.
fn refused_source(relay: &Server) -> String {
    let line = relay.wait_line("events of another database", PATIENCE).unwrap();
    assert!(line.contains("cannot use Redis") && line.contains("--adopt-stream"), "{line}");
    let (_, rest) = line.split_once("another database (").expect("the source");
    rest.split_once(')').expect("the source").0.to_owned()
}

#[test]
fn new_events_are_relayed_after_restored_dump() {
    let (cluster, db) = own_cluster("source-dump", &[]);
    let redis = Redis::start("source-dump").unwrap();
    let relay = lead(db.url(), &redis, &[]);
    create_finished_tasks(&mut db.connect(), 10);
    assert_stream_holds_history(&db, &redis);
    let dump = Dump::take(&cluster);
    create_finished_tasks(&mut db.connect(), 50);
    assert_stream_holds_history(&db, &redis);
    let before: usize = stream(&redis).values().sum();

    // Under a relay that runs: it cannot know whether this is a restore, or another database.
    dump.restore(&cluster);
    create_finished_tasks(&mut db.connect(), 40);
    relay.wait_line("finish_copy()", PATIENCE).unwrap();
    cluster.psql("workflow", "SELECT workflow.finish_copy()").unwrap();
    let source = refused_source(&relay);
    assert_eq!(stream(&redis).values().sum::<usize>(), before);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));

    let relay = lead(db.url(), &redis, &[("WORKFLOW_ADOPT_STREAM", &source)]);
    assert_stream_holds_history(&db, &redis);
    wait_for_checkpoint(&db, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
    // The flag is needed until a checkpoint is beyond the events of the other source.
    let relay = lead(db.url(), &redis, &[]);
    create_finished_tasks(&mut db.connect(), 5);
    assert_stream_holds_history(&db, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
}

/// The event of a late commit has a lower id than those at the relay's checkpoint, so the copy redelivers all of these.
#[test]
fn nothing_is_doubled_after_a_dump_in_another_cluster() {
    let (cluster, db) = own_cluster("source-late", &[]);
    let other = Postgres::start("source-late-copy", FAST).unwrap();
    let redis = Redis::start("source-late").unwrap();
    let relay = lead(db.url(), &redis, &[]);
    let client = &mut db.connect();
    let task = create_task(client);
    let mut late = db.connect();
    let mut late = late.transaction().unwrap();
    start_task(&mut late, task);
    create_finished_tasks(client, 10);
    assert_stream_holds_history(&db, &redis);
    wait_for_checkpoint(&db, &redis);
    relay.kill().unwrap();
    late.commit().unwrap();
    Dump::take(&cluster).restore(&other);
    other.psql("workflow", "SELECT workflow.finish_copy()").unwrap();

    let restored = Db::at(other.url("workflow"));
    let relay = start(restored.url(), &redis, &[]);
    let source = refused_source(&relay);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
    let relay = lead(restored.url(), &redis, &[("WORKFLOW_ADOPT_STREAM", &source)]);
    create_finished_tasks(&mut restored.connect(), 10);
    assert_stream_holds_history(&restored, &redis);
    assert!(!log_of(&relay).contains("that the database does not"), "{}", log_of(&relay));
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
}

/// A copy without the consumer, and subscribers have deleted all entries.
#[test]
fn vanished_consumer_is_missed_beside_an_adopted_stream() {
    let (original, copy) = (Db::new(), Db::new());
    let redis = Redis::start("source-adopted").unwrap();
    let relay = lead(original.url(), &redis, &[]);
    create_tasks(&mut original.connect(), 3);
    assert_stream_holds_history(&original, &redis);
    wait_until("the source", || redis.command::<i64>(&["XLEN", "workflow:stream:source"]).unwrap() == 1);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
    redis.command::<i64>(&["XTRIM", STREAM, "MAXLEN", "0"]).unwrap();
    create_tasks(&mut copy.connect(), 3);
    let relay = start(copy.url(), &redis, &[]);
    let source = refused_source(&relay);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
    let adopt = [("WORKFLOW_ADOPT_STREAM", &*source)];
    let relay = start(copy.url(), &redis, &adopt);
    relay.wait_line("consumer \"relay\" no longer exists", PATIENCE).unwrap();
    let again = "SELECT workflow.drop_consumer('relay'), workflow.create_consumer('relay', true)";
    copy.connect().batch_execute(again).unwrap();
    assert_stream_holds_history(&copy, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
}

#[test]
fn second_database_is_refused_on_the_stream_of_another() {
    let (cluster, first) = own_cluster("source-two", &[]);
    cluster.psql("postgres", "CREATE DATABASE second").unwrap();
    cluster.psql("second", "CREATE EXTENSION pg_workflow").unwrap();
    let second = Db::at(cluster.url("second"));
    second.connect().batch_execute("SELECT workflow.create_consumer('relay', true)").unwrap();
    let redis = Redis::start("source-two").unwrap();
    let _first_relay = lead(first.url(), &redis, &[]);
    create_finished_tasks(&mut first.connect(), 10);
    assert_stream_holds_history(&first, &redis);
    let second_relay = start(second.url(), &redis, &[]);
    for _ in 0..3 {
        create_finished_tasks(&mut first.connect(), 10);
        create_finished_tasks(&mut second.connect(), 10);
    }
    assert_stream_holds_history(&first, &redis);
    refused_source(&second_relay);
    assert_eq!(stream(&redis).values().sum::<usize>(), history(&first).len(), "nothing of the second database");
    assert_eq!(second_relay.terminate().unwrap().code(), Some(0));

    // With a stream of its own it loses nothing.
    let other = [("WORKFLOW_STREAM", "workflow:second"), ("WORKFLOW_CHANNEL", "workflow:second:events")];
    let second_relay = lead(second.url(), &redis, &other);
    let length = || redis.command::<usize>(&["XLEN", "workflow:second"]).unwrap();
    wait_until("its events", || length() == history(&second).len());
    assert_eq!(second_relay.terminate().unwrap().code(), Some(0));
}

/// Subscribers can delete all entries; those told the source.
#[test]
fn copied_database_is_refused_on_a_stream_without_entries() {
    let (cluster, first) = own_cluster("source-copy", &[]);
    let redis = Redis::start("source-copy").unwrap();
    let relay = lead(first.url(), &redis, &[]);
    create_finished_tasks(&mut first.connect(), 5);
    assert_stream_holds_history(&first, &redis);
    wait_for_checkpoint(&first, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
    redis.command::<usize>(&["XTRIM", STREAM, "MAXLEN", "0"]).unwrap();

    // With the consumer and its checkpoints.
    cluster.psql("postgres", "CREATE DATABASE second TEMPLATE workflow").unwrap();
    let second = Db::at(cluster.url("second"));
    let copied = history(&second).len();
    create_finished_tasks(&mut second.connect(), 5);
    let relay = start(second.url(), &redis, &[]);
    let source = refused_source(&relay);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
    let length = || stream(&redis).values().sum::<usize>();
    assert_eq!(length(), 0, "entries of the copy");

    let relay = lead(first.url(), &redis, &[]);
    create_finished_tasks(&mut first.connect(), 5);
    wait_until("the events of the original", || length() == history(&first).len() - copied);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));

    // The copy replaces the original.
    let (before, new) = (length(), history(&second).len() - copied);
    let relay = lead(second.url(), &redis, &[("WORKFLOW_ADOPT_STREAM", &source)]);
    wait_until("the events of the copy", || length() == before + new);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
    refused_source(&start(first.url(), &redis, &[]));
}

/// As the relay of 0.2.0 wrote them.
#[test]
fn entries_without_a_source_are_compared() {
    let db = Db::new();
    let redis = Redis::start("source-unmarked").unwrap();
    let relay = lead(db.url(), &redis, &[]);
    create_finished_tasks(&mut db.connect(), 10);
    assert_stream_holds_history(&db, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
    let entries: Vec<(String, HashMap<String, String>)> = redis.command(&["XRANGE", STREAM, "-", "+"]).unwrap();
    redis.command::<usize>(&["DEL", STREAM]).unwrap();
    for (id, fields) in &entries {
        redis.command::<String>(&["XADD", STREAM, id, "event", &fields["event"]]).unwrap();
    }
    // So that the relay compares all of them.
    let sql = "SELECT workflow.drop_consumer('relay'); SELECT workflow.create_consumer('relay', true)";
    db.connect().batch_execute(sql).unwrap();
    let relay = lead(db.url(), &redis, &[]);
    create_finished_tasks(&mut db.connect(), 10);
    assert_stream_holds_history(&db, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
}
