//! Source: a consumer group of the Redis stream.

use super::{Running, STREAM, last_id, redis_at, two_ways};
use pg_workflow_client::redis_server::RedisServer;
use pg_workflow_client::subscriber::Subscriber as Source;
use pg_workflow_tests::chaos::proxy::Cut;
use pg_workflow_tests::*;
use std::collections::HashSet;
use xtask::stack::redis::Redis;

#[test]
fn group_shares_a_stream_and_misses_no_event() {
    let db = Db::new();
    // Redis stores its data, so that the group survives the restart.
    let redis = Redis::start_with("subscriber-group", &["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("became leader", PATIENCE).unwrap();
    create_finished_tasks(&mut db.connect(), 10);
    let ways = two_ways(redis.port());
    let [first, second] = [ways[0].port(), ways[1].port()];
    let url = format!("redis://127.0.0.1:{first},redis://127.0.0.1:{second}");
    // A new group starts with the first entry of the stream.
    let running = Running::start(Source::group(RedisServer::parse(&url).unwrap(), STREAM, "billing", "one"));
    running.assert_complete(&db, 0);
    ways.iter().for_each(|way| way.cut(Cut::Reset));
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, 0);
    // Half-open: the subscriber must notice by itself, and use the other proxy.
    ways[0].blackhole();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, 0);
    ways[0].pass();
    redis.kill().unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    redis.start_again().unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, 0);
    let pending =
        || redis.command::<(usize, redis::Value, redis::Value, redis::Value)>(&["XPENDING", STREAM, "billing"]);
    wait_until("acknowledgements", || pending().unwrap().0 == 0);
    running.stop();

    // First the pending entries of an earlier member of the same name, then new entries, then those of a dead member.
    create_finished_tasks(&mut db.connect(), 5);
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
    wait_until("the entries of the dead member", || {
        let handled: HashSet<i64> = running.handled().iter().map(|event| event.id).collect();
        dead.iter().all(|entry| handled.contains(&id(entry)))
    });
    wait_until("acknowledgements", || pending().unwrap().0 == 0);
    let handled: Vec<i64> = running.stop().iter().map(|event| event.id).collect();
    assert_eq!(handled[..4], own.iter().map(id).collect::<Vec<_>>());
    assert_eq!(handled.len(), 16, "five tasks and their run, each event exactly once");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn group_starts_again_if_redis_returns_empty() {
    let db = Db::new();
    let redis = Redis::start("subscriber-empty").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("became leader", PATIENCE).unwrap();
    let running = Running::start(Source::group(redis_at(redis.port()), STREAM, "billing", "one"));
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, 0);
    redis.kill().unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    redis.start_again().unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, 0);
    assert_eq!(
        ["cannot reach Redis", "reconnected to Redis"].map(|text| running.log.count(text)),
        [1, 1],
        "logged once"
    );
    running.stop();
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn group_reports_number_of_trimmed_events() {
    let db = Db::new();
    let redis = Redis::start("subscriber-trimmed").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("became leader", PATIENCE).unwrap();
    let length = || i64::try_from(redis.command::<usize>(&["XLEN", STREAM]).unwrap()).unwrap();
    create_finished_tasks(&mut db.connect(), 10);
    wait_until("the stream", || length() == 31);
    // Entries that were trimmed before the group exists do not count as lost.
    redis.command::<usize>(&["XTRIM", STREAM, "MAXLEN", "4"]).unwrap();
    let source = || Source::group(redis_at(redis.port()), STREAM, "slow", "one");
    let running = Running::start(source());
    wait_until("four events", || running.handled().len() == 4);
    assert_eq!(running.log.count("was trimmed"), 0);
    running.stop();
    for lost in [27, 3] {
        let tasks = usize::try_from(lost / 3).unwrap();
        let before = length();
        create_finished_tasks(&mut db.connect(), tasks);
        wait_until("the stream", || length() == before + lost + 1);
        redis.command::<usize>(&["XTRIM", STREAM, "MAXLEN", "1"]).unwrap();
        let running = Running::start(source());
        wait_until("the last event", || running.handled().last().is_some_and(|event| event.id == last_id(&db)));
        assert_eq!(running.log.count(&format!("lost {lost} events")), 1);
        running.stop();
    }
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}
