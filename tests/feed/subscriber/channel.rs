//! Source: a Redis channel, with gaps filled in from PostgreSQL.

use super::{CHANNEL, Running, STREAM, at, last_id, redis_at, two_ways};
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::redis_server::RedisServer;
use pg_workflow_client::subscriber::Subscriber as Source;
use pg_workflow_state_machine::State;
use pg_workflow_tests::chaos::proxy::{Cut, Proxy};
use pg_workflow_tests::*;
use postgres::Client;
use std::collections::HashSet;
use std::time::Duration;
use xtask::stack::redis::Redis;

/// These events as a relay would publish them.
fn published(db: &Db, which: &str) -> Vec<String> {
    let fields = "id, entity_type, entity_id, dag_id, dag_run_id, task_id, old_state, new_state, version, changed_at, actor, metadata";
    let sql = format!("SELECT to_jsonb(h)::text FROM (SELECT {fields} FROM workflow.state_history WHERE {which}) AS h");
    db.connect().query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Starts a subscriber of the channel, and waits for its subscription.
fn subscribe(redis: &Redis, db: &Db) -> Running {
    let source = Source::channel(redis_at(redis.port()), CHANNEL, PostgresServer::parse(db.url()).unwrap());
    let running = Running::start(source);
    let subscribed = || redis.command::<Vec<(String, usize)>>(&["PUBSUB", "NUMSUB", CHANNEL]).unwrap()[0].1 == 1;
    wait_until("the subscription", subscribed);
    running
}

#[test]
fn channel_gaps_are_filled_after_each_outage_without_repeats() {
    let (cluster, db) = own_cluster("subscriber-channel", &[]);
    let redis = Redis::start("subscriber-channel").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("became leader", PATIENCE).unwrap();
    let ways = two_ways(redis.port());
    let postgres = Proxy::start(cluster.port()).unwrap();
    let [first, second] = [ways[0].port(), ways[1].port()];
    let url = format!("redis://127.0.0.1:{first},redis://127.0.0.1:{second}");
    let running = Running::start(Source::channel(RedisServer::parse(&url).unwrap(), CHANNEL, at(postgres.port())));
    let start = running.wait_ready(&db);
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    for _ in 0..3 {
        ways.iter().for_each(Proxy::refuse);
        // The channel delivers these to other subscribers only.
        create_finished_tasks(&mut db.connect(), 20);
        ways.iter().for_each(Proxy::pass);
        create_finished_tasks(&mut db.connect(), 20);
        running.assert_complete(&db, start);
    }
    redis.kill().unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    redis.start_again().unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    // Half-open: the subscriber must notice by itself, and use the other proxy.
    ways[0].blackhole();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    ways[0].pass();
    // Once the feed is read to its end, the channel works without PostgreSQL. Events during an outage of both are delivered
    // after PostgreSQL is back.
    std::thread::sleep(Duration::from_secs(1));
    postgres.refuse();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    ways.iter().for_each(|way| way.cut(Cut::Reset));
    create_finished_tasks(&mut db.connect(), 20);
    postgres.pass();
    running.assert_complete(&db, start);
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    let handled = running.stop();
    assert_eq!(handled.iter().map(|event| event.id).collect::<HashSet<_>>().len(), handled.len(), "exactly once");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

/// A late relay: its unpublished events are older than positions that the subscriber takes until the channel breaks.
#[test]
fn channel_fills_in_events_published_late_during_an_outage() {
    let db = Db::new();
    let redis = Redis::start("subscriber-late").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("became leader", PATIENCE).unwrap();
    let way = Proxy::start(redis.port()).unwrap();
    let postgres = PostgresServer::parse(db.url()).unwrap();
    let running = Running::start(Source::channel(redis_at(way.port()), CHANNEL, postgres));
    let start = running.wait_ready(&db);
    create_finished_tasks(&mut db.connect(), 20);
    running.assert_complete(&db, start);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
    let before = last_id(&db);
    create_finished_tasks(&mut db.connect(), 20);
    // The subscriber takes a position every 2 s: it takes several that are past the unpublished events.
    std::thread::sleep(Duration::from_secs(7));
    // The first event is published while the channel works, and the rest while it does not.
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
    // Events before the subscription are not delivered.
    let task = create_task(client);
    let running = subscribe(&redis, &db);
    // It has finished its first catch-up.
    std::thread::sleep(Duration::from_secs(1));
    let path = [State::Queued, State::Running, State::Retrying, State::Running, State::Success];
    for pair in path.windows(2) {
        Transition::of(task).from(pair[0]).to(pair[1]).run(client).unwrap();
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

/// A restore takes versions back, and other events reach them again.
#[test]
fn channel_delivers_versions_that_a_restored_database_repeats() {
    let db = Db::new();
    let redis = Redis::start("subscriber-restored").unwrap();
    let client = &mut db.connect();
    let task = create_task(client);
    let running = subscribe(&redis, &db);
    let history = format!("entity_id = '{task}' ORDER BY version");
    let path = |path: &[State], client: &mut Client| {
        path.windows(2).for_each(|pair| _ = Transition::of(task).from(pair[0]).to(pair[1]).run(client).unwrap());
    };
    path(&[State::Queued, State::Running, State::Retrying, State::Running], client);
    let lost = published(&db, &history);
    let publish = |event: &str| _ = redis.command::<usize>(&["PUBLISH", CHANNEL, event]).unwrap();
    lost[1..].iter().for_each(|event| publish(event));
    wait_until("the first timeline", || running.handled().len() >= 3);
    // What a backup from the time of version 1 leaves.
    client
        .batch_execute(&format!(
            "SET session_replication_role = replica;
             DELETE FROM workflow.state_history WHERE entity_id = '{task}' AND version > 1;
             UPDATE workflow.task_instances SET version = 1, state = 'queued', try_number = 0 WHERE id = '{task}';
             RESET session_replication_role"
        ))
        .unwrap();
    path(&[State::Queued, State::Running, State::Failed], client);
    let restored = published(&db, &history);
    // The channel misses version 2, and repeats both afterwards.
    [&restored[2], &restored[1], &restored[2]].into_iter().for_each(|event| publish(event));
    path(&[State::Failed, State::Retrying], client);
    publish(published(&db, &history).last().unwrap());
    wait_until("the second timeline", || running.handled().len() >= 6);
    let handled: Vec<_> = running.stop().iter().map(|event| (event.version, event.new_state.unwrap())).collect();
    let expected = [State::Running, State::Retrying, State::Running, State::Running, State::Failed, State::Retrying];
    assert_eq!(handled, [2, 3, 4, 2, 3, 4].into_iter().zip(expected).collect::<Vec<_>>());
}
