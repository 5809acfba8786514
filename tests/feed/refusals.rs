//! The relay with a Redis that rejects, loses, evicts or deletes: the stream stays exact, and `/health` says why it waits.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::Value;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

const STREAM: &str = "workflow:stream";
/// Only clients with the token get the reasons.
const TOKEN: &str = "token";

fn serve_with(db: &Db, redis_url: &str, more: &[(&str, &str)]) -> (Server, String) {
    let envs = [
        ("DATABASE_URL", db.url()),
        ("REDIS_URL", redis_url),
        ("WORKFLOW_LISTEN", "127.0.0.1:0"),
        ("WORKFLOW_TOKEN", TOKEN),
    ];
    let server = Server::start("refusals", &server_binary(), &["serve"], &[&envs, more].concat()).expect("a server");
    let line = server.wait_line("listening on", PATIENCE).expect("it listens");
    server.wait_line("became leader", PATIENCE).expect("it leads");
    let url = line.split_whitespace().next_back().unwrap_or_default().to_owned();
    (server, url)
}

fn get(url: &str) -> ureq::http::Response<ureq::Body> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    agent.get(url).header("Authorization", format!("Bearer {TOKEN}")).call().expect("a response")
}

fn health(url: &str) -> (u16, Value) {
    let mut response = get(&format!("{url}/health"));
    (response.status().as_u16(), response.body_mut().read_json().expect("JSON"))
}

/// The ids of the events in the stream, in its order.
fn stream(redis: &Redis) -> Vec<i64> {
    let entries: Vec<(String, HashMap<String, String>)> = redis.command(&["XRANGE", STREAM, "-", "+"]).unwrap();
    let id = |event: &String| serde_json::from_str::<Value>(event).expect("JSON")["id"].as_i64().expect("an id");
    entries.iter().map(|(_, fields)| id(&fields["event"])).collect()
}

fn length(redis: &Redis) -> usize {
    redis.command(&["XLEN", STREAM]).unwrap()
}

fn written(db: &Db) -> Vec<i64> {
    let rows = db.connect().query("SELECT id FROM workflow.state_history ORDER BY id", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn assert_stream_is_exact(db: &Db, redis: &Redis) {
    let written = written(db);
    wait_until("all events", || length(redis) >= written.len());
    let mut ids = stream(redis);
    ids.sort_unstable();
    assert_eq!(ids, written);
}

/// Waits until the last relay checkpoint is at the end of the stream.
fn wait_for_checkpoint(db: &Db, redis: &Redis) {
    let last: Vec<(String, Vec<String>)> = redis.command(&["XREVRANGE", STREAM, "+", "-", "COUNT", "1"]).unwrap();
    let saved = "SELECT coalesce(array_to_string(max(position), '-'), '') FROM workflow.consumer_checkpoints";
    let client = &mut db.connect();
    wait_until("a checkpoint", || client.query_one(saved, &[]).unwrap().get::<_, String>(0) == last[0].0);
}

fn used_memory(redis: &Redis) -> usize {
    let info: String = redis.command(&["INFO", "memory"]).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("used_memory");
    line.trim().parse().expect("a number")
}

fn limit_memory(redis: &Redis, bytes: usize) {
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", &bytes.to_string()]).unwrap();
}

/// The value of a metric.
fn metric(url: &str, name: &str) -> f64 {
    let text = get(&format!("{url}/metrics")).body_mut().read_to_string().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.trim().parse().expect("a number")
}

/// Creates tasks and starts them, with so much metadata that each transition takes 20 kB in the stream.
fn write_large_events(db: &Db, count: usize) {
    let client = &mut db.connect();
    let tasks = create_tasks(client, count);
    let sql = "SELECT workflow.transition_many('task_instance', $1, 'queued', 'running', metadata => $2)";
    client.query(sql, &[&tasks, &serde_json::json!({ "log": "x".repeat(20_000) })]).unwrap();
}

/// Waits for some more comparisons, while `/health` reports the same refusal. Returns how many there were in a second.
fn attempts_while_unhealthy(url: &str) -> f64 {
    let comparisons = || metric(url, "workflow_relay_comparisons_total");
    let wait_for_more = || {
        let before = comparisons();
        wait_until("attempts", || {
            let (status, body) = health(url);
            assert!(status == 503 && body["errors"]["redis"].is_string(), "it is refused all the time: {body}");
            comparisons() >= before + 4.0
        });
        comparisons() - before
    };
    // The pauses between them double at first, from 50 ms.
    wait_for_more();
    let began = Instant::now();
    wait_for_more() / began.elapsed().as_secs_f64()
}

#[test]
fn refused_publish_leaves_no_entry_unpublished() {
    let db = Db::new();
    let redis = Redis::start("refusals-acl").unwrap();
    let user = "SETUSER relay on >secret ~workflow:* resetchannels &other:* +ping +eval +exists +xinfo|stream +xadd +xrange +xlen +xtrim +publish";
    let user: Vec<&str> = ["ACL"].into_iter().chain(user.split(' ')).collect();
    redis.command::<()>(&user).unwrap();
    let subscriber = Subscriber::start(&redis.url());
    let (server, url) = serve_with(&db, &redis.url().replace("redis://", "redis://relay:secret@"), &[]);
    create_tasks(&mut db.connect(), 20);
    let line = server.wait_line("cannot use Redis", PATIENCE).unwrap();
    assert!(line.contains("ACL SETUSER"), "{line}");
    // Several attempts.
    let comparisons = metric(&url, "workflow_relay_comparisons_total");
    wait_until("attempts", || metric(&url, "workflow_relay_comparisons_total") > comparisons + 3.0);
    assert_eq!(length(&redis), 0, "it enters the stream only if it is published");
    assert_eq!(health(&url).0, 503);
    redis.command::<()>(&["ACL", "SETUSER", "relay", "&workflow:*"]).unwrap();
    assert_stream_is_exact(&db, &redis);
    subscriber.catch_up(&redis.url());
    let mut heard: Vec<i64> = subscriber.events().iter().filter_map(|event| event["id"].as_i64()).collect();
    heard.dedup();
    assert_eq!(heard, written(&db));
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_trims_a_full_redis() {
    let db = Db::new();
    let redis = Redis::start_with("refusals-full", &["--maxmemory-policy", "noeviction"]).unwrap();
    let more = [("WORKFLOW_STREAM_MAX_LENGTH", "10"), ("WORKFLOW_STREAM_MIN_AGE", "30")];
    let (server, url) = serve_with(&db, &redis.url(), &more);
    write_large_events(&db, 300);
    wait_until("the first events", || length(&redis) == 601);
    wait_for_checkpoint(&db, &redis);
    limit_memory(&redis, used_memory(&redis) + 200_000);
    // The old entries are too young to be removed now.
    write_large_events(&db, 100);
    server.wait_line("cannot use Redis", PATIENCE).unwrap();
    wait_until("room for the last event", || stream(&redis).last() == written(&db).last());
    wait_until("health", || health(&url).0 == 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn health_and_log_do_not_flap_while_redis_rejects() {
    let db = Db::new();
    let redis = Redis::start_with("refusals-flap", &["--maxmemory-policy", "noeviction"]).unwrap();
    let (server, url) = serve_with(&db, &redis.url(), &[]);
    // More than a batch, so that a relay that returns to its checkpoint first reads a batch that Redis has.
    create_tasks(&mut db.connect(), 2500);
    wait_until("the first events", || length(&redis) == 2501);
    limit_memory(&redis, 1);
    create_tasks(&mut db.connect(), 10);
    server.wait_line("cannot use Redis", PATIENCE).unwrap();
    wait_until("the refusal in /health", || health(&url).0 == 503);
    let rate = attempts_while_unhealthy(&url);
    assert!(rate < 3.0, "{rate} attempts a second");
    let log = log_of(&server);
    assert_eq!(log.matches("cannot use Redis").count(), 1, "{log}");
    assert_eq!(log.matches("became leader").count(), 1, "{log}");
    limit_memory(&redis, 0);
    assert_stream_is_exact(&db, &redis);
    wait_until("health", || health(&url).0 == 200);
    assert_eq!(log_of(&server).matches("reconnected to Redis").count(), 1);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_refills_a_flushed_stream_without_new_events() {
    let db = Db::new();
    let redis = Redis::start("refusals-flush").unwrap();
    let (server, _) = serve_with(&db, &redis.url(), &[]);
    create_tasks(&mut db.connect(), 20);
    for lose in [&["FLUSHALL"][..], &["DEL", STREAM]] {
        assert_stream_is_exact(&db, &redis);
        redis.command::<redis::Value>(lose).unwrap();
    }
    assert_stream_is_exact(&db, &redis);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_warns_and_slows_down_while_redis_evicts() {
    let db = Db::new();
    let redis = Redis::start("refusals-evict").unwrap();
    let (server, url) = serve_with(&db, &redis.url(), &[]);
    redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    limit_memory(&redis, used_memory(&redis) + 4_000_000);
    write_large_events(&db, 400);
    let line = server.wait_line("maxmemory-policy", PATIENCE).unwrap();
    assert!(line.contains("WARN") && line.contains("noeviction"), "{line}");
    wait_until("the reason in /health", || {
        health(&url).1["errors"]["redis"].as_str().is_some_and(|reason| reason.contains("noeviction"))
    });
    let rate = attempts_while_unhealthy(&url);
    assert!(rate < 3.0, "{rate} comparisons a second");
    assert_eq!(log_of(&server).matches("maxmemory-policy").count(), 1, "logged once: {}", log_of(&server));
    limit_memory(&redis, 0);
    assert_stream_is_exact(&db, &redis);
    wait_until("health", || health(&url).0 == 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

/// The relay cannot tell a deleted entry from a lost one after its last checkpoint.
#[test]
fn entries_deleted_before_a_checkpoint_stay_deleted() {
    let db = Db::new();
    let redis = Redis::start("refusals-deleted").unwrap();
    let (server, url) = serve_with(&db, &redis.url(), &[]);
    create_tasks(&mut db.connect(), 20);
    wait_until("the events", || length(&redis) == 21);
    wait_for_checkpoint(&db, &redis);
    let entries: Vec<(String, Vec<String>)> = redis.command(&["XRANGE", STREAM, "-", "+"]).unwrap();
    let ids: Vec<&str> = entries.iter().map(|(id, _)| &id[..]).collect();
    for _ in 0..2 {
        redis.command::<usize>(&[&["XDEL", STREAM], &ids[..]].concat()).unwrap();
        let comparisons = metric(&url, "workflow_relay_comparisons_total");
        redis.command::<usize>(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
        wait_until("a comparison", || metric(&url, "workflow_relay_comparisons_total") > comparisons);
    }
    create_tasks(&mut db.connect(), 1);
    wait_until("the next events", || stream(&redis).last() == written(&db).last());
    assert_eq!(length(&redis), 2);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn stream_stays_exact_if_the_first_checkpoint_is_beyond_its_end() {
    let db = Db::new();
    let redis = Redis::start("refusals-ahead").unwrap();
    let in_an_hour =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + Duration::from_secs(3600);
    let foreign = format!("{}-1", in_an_hour.as_millis());
    redis.command::<String>(&["XADD", STREAM, &foreign, "a", "b"]).unwrap();
    let (server, url) = serve_with(&db, &redis.url(), &[]);
    create_tasks(&mut db.connect(), 20);
    wait_until("the events", || length(&redis) == 22);
    redis.command::<usize>(&["DEL", STREAM]).unwrap();
    create_tasks(&mut db.connect(), 1);
    for _ in 0..3 {
        assert_stream_is_exact(&db, &redis);
        let comparisons = metric(&url, "workflow_relay_comparisons_total");
        redis.command::<usize>(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
        wait_until("a comparison", || metric(&url, "workflow_relay_comparisons_total") > comparisons);
        create_tasks(&mut db.connect(), 1);
    }
    assert_stream_is_exact(&db, &redis);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_names_an_event_too_large_for_redis() {
    let db = Db::new();
    let redis = Redis::start_with("refusals-large", &["--proto-max-bulk-len", "1mb"]).unwrap();
    let (server, url) = serve_with(&db, &redis.url(), &[]);
    let client = &mut db.connect();
    let task = create_task(client);
    let metadata = serde_json::json!({ "log": "x".repeat(2_000_000) });
    client.batch_execute("SET pg_workflow.max_field_size = 4194304").unwrap();
    Transition::of(task).from(State::Queued).to(State::Running).metadata(metadata).run(client).unwrap();
    let id: i64 = client.query_one("SELECT max(id) FROM workflow.state_history", &[]).unwrap().get(0);
    create_tasks(client, 3);
    let line = server.wait_line("cannot use Redis", PATIENCE).unwrap();
    let named = line.split_once(&format!("event {id} (")).and_then(|(_, rest)| rest.split_once(" bytes)"));
    let (size, _) = named.unwrap_or_else(|| panic!("event {id} with its size: {line}"));
    assert!(size.parse::<usize>().unwrap() > 2_000_000 && line.contains("proto-max-bulk-len"), "{line}");
    assert_eq!(length(&redis), 2, "the events before it");
    let (status, body) = health(&url);
    assert!(status == 503 && body["errors"]["redis"].as_str().unwrap().contains(&format!("event {id} (")), "{body}");
    redis.command::<()>(&["CONFIG", "SET", "proto-max-bulk-len", "4mb"]).unwrap();
    wait_until("the events after it", || length(&redis) == 7);
    wait_until("health", || health(&url).0 == 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}
