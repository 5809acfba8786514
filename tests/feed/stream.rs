//! The Redis stream holds each event once, through failovers of relays and lost data in Redis.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_tests::*;
use serde_json::Value;
use std::time::{Duration, Instant};
use xtask::stack::postgres::PRELOADED;
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

const STREAM: &str = "workflow:stream";

/// Reads the entries of the stream: id and event.
fn entries(redis: &Redis) -> Vec<(String, Value)> {
    let entries: Vec<(String, Vec<String>)> = redis.command(&["XRANGE", STREAM, "-", "+"]).unwrap();
    let event = |fields: Vec<String>| {
        assert_eq!(fields[0], "event");
        serde_json::from_str(&fields[1]).expect("JSON")
    };
    entries.into_iter().map(|(id, fields)| (id, event(fields))).collect()
}

/// Waits until the stream has caught up with the history, and compares them: the same events, exactly once, in the order of
/// versions.
fn assert_the_stream_is_the_history(db: &Db, redis: &Redis) {
    let client = &mut db.connect();
    let sql = "SELECT id FROM workflow.state_history ORDER BY id";
    let written: Vec<i64> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    wait_until("the stream", || redis.command::<usize>(&["XLEN", STREAM]).unwrap() >= written.len());
    let entries = entries(redis);
    let mut ids: Vec<i64> = entries.iter().map(|(_, event)| event["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, written);
    let mut versions = std::collections::HashMap::new();
    for (id, event) in &entries {
        assert!(id.ends_with(&format!("-{}", event["id"])), "{id}: {event}");
        let last = versions.insert(event["entity_id"].to_string(), event["version"].as_i64().unwrap());
        assert_eq!(event["version"].as_i64().unwrap(), last.unwrap_or(0) + 1);
    }
}

fn start_tasks(db: &Db, tasks: usize) {
    let client = &mut db.connect();
    for task in create_tasks(client, tasks) {
        start_task(client, task);
    }
}

fn start(db: &Db, redis: &Redis, more: &[(&str, &str)]) -> Server {
    let url = redis.url();
    let envs = [("DATABASE_URL", db.url()), ("REDIS_URL", &url), ("WORKFLOW_NO_HTTP", "1")];
    Server::start("stream", &server_binary(), &["serve"], &[&envs[..], more].concat()).expect("a relay")
}

fn lead(db: &Db, redis: &Redis, more: &[(&str, &str)]) -> Server {
    let server = start(db, redis, more);
    server.wait_line("became leader", PATIENCE).unwrap();
    server
}

#[test]
fn stream_holds_each_event_once_and_in_published_order() {
    let db = Db::new();
    let redis = Redis::start("stream-once").unwrap();
    let subscriber = Subscriber::start(&redis.url());
    let _relay = lead(&db, &redis, &[]);
    start_tasks(&db, 50);
    assert_the_stream_is_the_history(&db, &redis);
    let in_stream: Vec<Value> = entries(&redis).into_iter().map(|(_, event)| event).collect();
    wait_until("the subscriber", || subscriber.len() >= in_stream.len());
    assert_eq!(subscriber.events(), in_stream);
}

/// The grants are those of the role `relay` in the documents.
#[test]
fn relay_needs_only_documented_grants() {
    let db = Db::new();
    let redis = Redis::start("stream-role").unwrap();
    let role = format!("relay_{}", uuid::Uuid::new_v4().simple());
    let client = &mut db.connect();
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN IN ROLE workflow_writer;
             GRANT EXECUTE ON FUNCTION workflow.open_partitions(text) TO {role}"
        ))
        .unwrap();
    let (server, url) = serve(&db.url().replace("postgres@", &format!("{role}@")), &redis.url());
    server.wait_line("became leader", PATIENCE).unwrap();
    start_tasks(&db, 5);
    assert_the_stream_is_the_history(&db, &redis);
    let health = || ureq::get(format!("{url}/health")).call().unwrap().body_mut().read_json::<Value>().unwrap();
    wait_until("the lag", || health()["relay"]["lag_events"] == 0);
    assert_eq!(health()["relay"]["role"], "leader");
    let log = log_of(&server);
    assert!(!log.contains("permission denied") && !log.contains("may not"), "{log}");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
}

#[test]
fn standby_relay_takes_over_in_time() {
    let db = Db::new();
    let redis = Redis::start("stream-leaders").unwrap();
    let first = lead(&db, &redis, &[]);
    let second = start(&db, &redis, &[]);
    second.wait_line("became standby", PATIENCE).unwrap();
    start_tasks(&db, 20);
    // The leader is stopped, but its connections stay open.
    let pid = Pid::from_raw(first.pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    start_tasks(&db, 20);
    assert_the_stream_is_the_history(&db, &redis);
    assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
    // It wakes up and finds that it is no longer the leader.
    kill(pid, Signal::SIGCONT).unwrap();
    first.wait_line("became standby", PATIENCE).unwrap();
    start_tasks(&db, 20);
    assert_the_stream_is_the_history(&db, &redis);

    let began = Instant::now();
    second.kill().unwrap();
    start_tasks(&db, 20);
    assert_the_stream_is_the_history(&db, &redis);
    assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());

    // A relay that is told to stop releases its lease at once.
    let third = start(&db, &redis, &[]);
    third.wait_line("became standby", PATIENCE).unwrap();
    let began = Instant::now();
    assert_eq!(first.terminate().unwrap().code(), Some(0));
    third.wait_line("became leader", PATIENCE).unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "after {:?}", began.elapsed());
}

#[test]
fn relay_rewrites_entries_lost_by_redis() {
    let db = Db::new();
    let redis = Redis::start("stream-forgotten").unwrap();
    let _relay = lead(&db, &redis, &[]);
    for _ in 0..2 {
        start_tasks(&db, 30);
        assert_the_stream_is_the_history(&db, &redis);
        // This Redis stores nothing on disk.
        redis.kill().unwrap();
        redis.start_again().unwrap();
        start_tasks(&db, 5);
        assert_the_stream_is_the_history(&db, &redis);
    }
    // Only the last entries are missing, as after a failover.
    start_tasks(&db, 30);
    assert_the_stream_is_the_history(&db, &redis);
    let before = redis.command::<Vec<u8>>(&["DUMP", STREAM]).unwrap();
    start_tasks(&db, 30);
    assert_the_stream_is_the_history(&db, &redis);
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    redis::cmd("RESTORE").arg(STREAM).arg(0).arg(before).arg("REPLACE").exec(&mut connection).unwrap();
    start_tasks(&db, 1);
    assert_the_stream_is_the_history(&db, &redis);
}

#[test]
fn stream_is_trimmed_but_keeps_young_entries() {
    let db = Db::new();
    let redis = Redis::start("stream-trim").unwrap();
    let length = || redis.command::<usize>(&["XLEN", STREAM]).unwrap();
    let relay = lead(&db, &redis, &[("WORKFLOW_STREAM_MAX_LENGTH", "10"), ("WORKFLOW_STREAM_MIN_AGE", "3600")]);
    start_tasks(&db, 50);
    assert_the_stream_is_the_history(&db, &redis);
    // Long enough for two rounds of trimming.
    std::thread::sleep(Duration::from_millis(2500));
    assert_the_stream_is_the_history(&db, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));

    let _relay = lead(&db, &redis, &[("WORKFLOW_STREAM_MAX_LENGTH", "10"), ("WORKFLOW_STREAM_MIN_AGE", "0")]);
    wait_until("a short stream", || length() == 10);
    start_tasks(&db, 50);
    let last: i64 = db.connect().query_one("SELECT max(id) FROM workflow.state_history", &[]).unwrap().get(0);
    // It was short before, too.
    wait_until("a short stream with the last event", || {
        length() == 10 && entries(&redis).last().is_some_and(|(_, event)| event["id"] == last)
    });
}

#[test]
fn relay_continues_after_foreign_stream_entry() {
    let db = Db::new();
    let redis = Redis::start("stream-foreign").unwrap();
    let relay = lead(&db, &redis, &[]);
    start_tasks(&db, 10);
    assert_the_stream_is_the_history(&db, &redis);
    // The id of the next event if it is written in the same millisecond.
    let (last, _) = entries(&redis).pop().unwrap();
    let (milliseconds, event) = last.split_once('-').unwrap();
    let id = format!("{milliseconds}-{}", event.parse::<u64>().unwrap() + 1);
    let foreign: String = redis.command(&["XADD", STREAM, &id, "event", "{\"id\":0}"]).unwrap();
    start_tasks(&db, 10);
    relay.wait_line("comparing it with the database", PATIENCE).unwrap();
    wait_until("all events", || redis.command::<usize>(&["XLEN", STREAM]).unwrap() > 2 * 21);
    assert_eq!(redis.command::<usize>(&["XDEL", STREAM, &foreign]).unwrap(), 1);
    assert_the_stream_is_the_history(&db, &redis);
}

#[test]
fn relay_withholds_a_prepared_transaction_until_its_commit() {
    let (_cluster, db) = own_cluster("stream-prepared", &[PRELOADED, ("max_prepared_transactions", "2")]);
    let redis = Redis::start("stream-prepared").unwrap();
    let relay = lead(&db, &redis, &[]);
    let client = &mut db.connect();
    let tasks = create_tasks(client, 2);
    for (task, name) in tasks.iter().zip(["committed", "rolled back"]) {
        client.batch_execute("BEGIN").unwrap();
        start_task(client, *task);
        client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).unwrap();
    }
    // Later events overtake both. The relay is stopped and started meanwhile.
    start_tasks(&db, 10);
    assert_the_stream_is_the_history(&db, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
    let _relay = lead(&db, &redis, &[]);
    client.batch_execute("ROLLBACK PREPARED 'rolled back'").unwrap();
    client.batch_execute("COMMIT PREPARED 'committed'").unwrap();
    assert_the_stream_is_the_history(&db, &redis);
    let (_, last) = entries(&redis).pop().unwrap();
    assert_eq!((&last["entity_id"], &last["version"]), (&tasks[0].to_string().into(), &2.into()));
}

#[test]
fn canceled_statements_of_the_relay_lose_and_double_nothing() {
    let db = Db::new();
    let redis = Redis::start("stream-canceled").unwrap();
    let relay = lead(&db, &redis, &[]);
    let client = &mut db.connect();
    let active = "pg_stat_activity WHERE datname = current_database() AND state = 'active'
                  AND application_name = 'workflow-server'";
    let mut canceled = 0;
    for _ in 0..30 {
        start_tasks(&db, 5);
        wait_until("a statement of the relay", || {
            let sql = format!("SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM {active}");
            let count: i64 = client.query_one(&sql, &[]).unwrap().get(0);
            canceled += count;
            count > 0
        });
    }
    assert!(canceled >= 30 && log_of(&relay).contains("canceling statement"), "{}", log_of(&relay));
    assert_the_stream_is_the_history(&db, &redis);
    assert_eq!(relay.terminate().unwrap().code(), Some(0));
}
