//! The relay through outages: no event is lost, and each entity's events stay in order.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::{Client, NoTls};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;
use xtask::stack::postgres::{FAST, PRELOADED, Postgres, Shutdown};
use xtask::stack::redis::Redis;

use crate::extension::roles::member_of;

fn wait_for_consumer(client: &mut Client) {
    wait_until("the relay's consumer", || {
        client.query_one("SELECT EXISTS (SELECT FROM workflow.consumers WHERE name = 'relay')", &[]).unwrap().get(0)
    });
}

/// Moves tasks back and forth, retries while the database is unavailable, and counts the confirmed transitions.
fn write_through_outages(url: &str, tasks: &[Uuid], rounds: usize, acknowledged: &AtomicUsize) {
    let mut client: Option<Client> = None;
    for round in 0..rounds {
        let (from, to) = if round % 2 == 0 { ("running", "retrying") } else { ("retrying", "running") };
        for task in tasks {
            let request = format!("{round}");
            let sql = "SELECT workflow.transition_task_instance($1, $2, $3, request_id => $4)";
            loop {
                if client.as_ref().is_none_or(Client::is_closed) {
                    client = Client::connect(url, NoTls).ok();
                }
                match client.as_mut().map(|client| client.query_one(sql, &[task, &from, &to, &request])) {
                    Some(Ok(_)) => break,
                    Some(Err(error))
                        if error.as_db_error().is_some_and(|error| !error.code().code().starts_with("57")) =>
                    {
                        panic!("a transition failed: {error:?}")
                    }
                    // Unavailable, or shutting down.
                    _ => std::thread::sleep(Duration::from_millis(20)),
                }
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Compares the received events with the history: each at least once, first receipts in the order of versions.
fn assert_nothing_lost(db: &Db, subscriber: &Subscriber) {
    let rows = db.connect().query("SELECT entity_id, version FROM workflow.state_history", &[]).unwrap();
    let written: HashSet<(String, i64)> =
        rows.iter().map(|row| (row.get::<_, Uuid>(0).to_string(), row.get(1))).collect();
    let received = || -> Vec<(String, i64)> {
        let key =
            |event: &serde_json::Value| Some((event["entity_id"].as_str()?.to_owned(), event["version"].as_i64()?));
        subscriber.events().iter().filter_map(key).collect()
    };
    let missing = || {
        let received: HashSet<(String, i64)> = received().into_iter().collect();
        written.difference(&received).cloned().collect::<Vec<_>>()
    };
    let deadline = Instant::now() + PATIENCE;
    while !missing().is_empty() {
        assert!(Instant::now() < deadline, "not received: {:?}", missing());
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut seen: HashMap<String, i64> = HashMap::new();
    for (entity, version) in received() {
        assert!(written.contains(&(entity.clone(), version)), "a phantom: {entity} {version}");
        let last = seen.entry(entity).or_insert(0);
        assert!(version <= *last + 1, "version {version} came before {}", *last + 1);
        *last = version.max(*last);
    }
}

#[test]
fn outages_of_redis_and_postgresql_lose_no_event() {
    let (cluster, db) = own_cluster("relay-faults", &[]);
    let redis = Redis::start("relay-faults").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    let client = &mut db.connect();
    wait_for_consumer(client);
    let subscriber = Subscriber::start(&redis.url());
    let tasks = create_tasks(client, 40);
    client
        .query("SELECT * FROM workflow.transition_many('task_instance', $1, 'queued', 'running')", &[&tasks])
        .unwrap();

    let acknowledged = AtomicUsize::new(0);
    let pid = Pid::from_raw(server.pid().cast_signed());
    std::thread::scope(|scope| {
        for own in tasks.chunks(10) {
            let acknowledged = &acknowledged;
            scope.spawn(|| write_through_outages(db.url(), own, 100, acknowledged));
        }
        let wait_for_load = |more: usize| {
            let goal = acknowledged.load(Ordering::Relaxed) + more;
            wait_until("the load", || acknowledged.load(Ordering::Relaxed) >= goal.min(3900));
        };
        wait_for_load(300);
        // Kill Redis at any step of the relay, but only after our subscriber has all messages that Redis accepted: the relay
        // is not to blame for messages in the buffer of a killed Redis.
        kill(pid, Signal::SIGSTOP).unwrap();
        subscriber.catch_up(&redis.url());
        redis.kill().unwrap();
        kill(pid, Signal::SIGCONT).unwrap();
        server.wait_line("cannot reach Redis", PATIENCE).unwrap();
        wait_for_load(300);
        // Redis forgets subscriptions. Stop the relay until ours is back.
        kill(pid, Signal::SIGSTOP).unwrap();
        redis.start_again().unwrap();
        subscriber.wait_subscribed(2);
        kill(pid, Signal::SIGCONT).unwrap();
        server.wait_line("reconnected to Redis", PATIENCE).unwrap();

        wait_for_load(300);
        cluster.stop(Shutdown::Immediate).unwrap();
        server.wait_line("cannot reach PostgreSQL", PATIENCE).unwrap();
        cluster.start_again().unwrap();
        server.wait_line("reconnected to PostgreSQL", PATIENCE).unwrap();
        wait_for_load(300);
        cluster.kill().unwrap();
        cluster.start_again().unwrap();
    });
    assert_eq!(acknowledged.into_inner(), 4000);
    assert_nothing_lost(&db, &subscriber);
    let log = log_of(&server);
    assert_eq!(log.matches("cannot reach Redis").count(), 1, "logged once:\n{log}");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_waits_for_both_servers_at_start() {
    let cluster = Postgres::start("relay-start", FAST).unwrap();
    let redis = Redis::start("relay-start").unwrap();
    cluster.psql("postgres", "CREATE DATABASE workflow").unwrap();
    cluster.stop(Shutdown::Fast).unwrap();
    redis.stop().unwrap();
    let (server, url) = serve(&cluster.url("workflow"), &redis.url());
    server.wait_line("cannot reach PostgreSQL", PATIENCE).unwrap();
    cluster.start_again().unwrap();
    // PostgreSQL is up without the extension: the log tells how to create it.
    server.wait_line("CREATE EXTENSION pg_workflow", PATIENCE).unwrap();
    cluster.psql("workflow", "CREATE EXTENSION pg_workflow").unwrap();
    server.wait_line("cannot reach Redis", PATIENCE).unwrap();
    let db = Db::at(cluster.url("workflow"));
    wait_for_consumer(&mut db.connect());
    // This happens while Redis is unavailable.
    let task = create_task(&mut db.connect());
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    assert_eq!(agent.get(format!("{url}/health")).call().unwrap().status(), 503);

    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGSTOP).unwrap();
    redis.start_again().unwrap();
    let subscriber = Subscriber::start(&redis.url());
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGCONT).unwrap();
    wait_until("the events of the outage", || subscriber.len() >= 2);
    assert_eq!(subscriber.events()[1]["entity_id"], task.to_string());
    wait_until("health", || agent.get(format!("{url}/health")).call().unwrap().status() == 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_resumes_after_kill() {
    let db = Db::new();
    let redis = Redis::start("relay-killed").unwrap();
    let subscriber = Subscriber::start(&redis.url());
    let client = &mut db.connect();
    let (mut server, _) = serve(db.url(), &redis.url());
    wait_for_consumer(client);
    for _ in 0..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let client = &mut db.connect();
                for _ in 0..100 {
                    create_in_state(client, "task_instance", State::Running);
                }
            });
            let before = subscriber.len();
            wait_until("some events", || subscriber.len() > before + 50);
            server.kill().unwrap();
        });
        server = serve(db.url(), &redis.url()).0;
    }
    assert_nothing_lost(&db, &subscriber);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_stops_at_once_during_outage() {
    let db = Db::new();
    let redis = Redis::start("relay-stop").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    wait_for_consumer(&mut db.connect());
    redis.stop().unwrap();
    server.wait_line("cannot reach Redis", PATIENCE).unwrap();
    let asked = Instant::now();
    assert_eq!(server.terminate().unwrap().code(), Some(0));
    assert!(asked.elapsed().as_secs() < 5, "{:?}", asked.elapsed());
}

#[test]
fn large_event_is_relayed_unchanged() {
    let db = Db::new();
    let redis = Redis::start("relay-large").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    let client = &mut db.connect();
    wait_for_consumer(client);
    client.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    let subscriber = Subscriber::start(&redis.url());
    let task = create_task(client);
    let metadata = serde_json::json!({"log": "x\u{1F600}\"".repeat(140_000), "number": 1.5, "null": null});
    Transition::of(task).from(State::Queued).to(State::Running).metadata(metadata).run(client).unwrap();
    wait_until("three events", || subscriber.len() >= 3);
    let sql = "SELECT to_jsonb(e) - 'changed_at' FROM workflow.read_events('reader') AS e";
    let feed: Vec<serde_json::Value> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let mut events = subscriber.events();
    for event in &mut events {
        assert!(event.as_object_mut().unwrap().remove("changed_at").unwrap().as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(events, feed);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_names_an_event_that_cannot_be_delivered() {
    // The event is written by hand.
    let db = Db::new().without_verification();
    let redis = Redis::start("relay-poison").unwrap();
    let (server, url) = serve(db.url(), &redis.url());
    let client = &mut db.connect();
    wait_for_consumer(client);
    let length = || redis.command::<i64>(&["XLEN", "workflow:stream"]).unwrap();
    create_tasks(client, 5);
    wait_until("the first events", || length() == 6);
    let mut transaction = client.transaction().unwrap();
    let tasks = create_tasks_in(&mut transaction, 9);
    let id = poison(&mut transaction, tasks[4]);
    transaction.commit().unwrap();
    let line = server.wait_line("cannot be delivered", PATIENCE).unwrap();
    for part in [format!("event {id} "), "consumer \"relay\"".to_owned(), format!("workflow.skip_event('relay', {id})")]
    {
        assert!(line.contains(&part), "{part}: {line}");
    }
    assert_eq!(length(), 6 + 1 + 4, "the events before it");
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut health = agent.get(format!("{url}/health")).call().unwrap();
    assert_eq!(health.status(), 503);
    let health = health.body_mut().read_json::<serde_json::Value>().unwrap();
    assert!(health["errors"]["relay"].is_string() && health["database"] == true, "{health}");

    client.execute("SELECT workflow.skip_event('relay', $1)", &[&id]).unwrap();
    wait_until("the events after it", || length() == 6 + 1 + 8);
    wait_until("health", || agent.get(format!("{url}/health")).call().unwrap().status() == 200);
    let log = log_of(&server);
    // On a busy machine it can lose the lease meanwhile.
    assert!(log.matches("cannot be delivered").count() <= log.matches("became leader").count(), "logged once: {log}");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn skipped_event_does_not_return_when_another_relay_takes_over() {
    let db = Db::new().without_verification();
    let redis = Redis::start("relay-skip").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    let client = &mut db.connect();
    wait_for_consumer(client);
    // The last event, so that no later one moves the end of the stream.
    let mut transaction = client.transaction().unwrap();
    let tasks = create_tasks_in(&mut transaction, 3);
    let id = poison(&mut transaction, tasks[2]);
    transaction.commit().unwrap();
    server.wait_line("cannot be delivered", PATIENCE).unwrap();
    client.execute("SELECT workflow.skip_event('relay', $1)", &[&id]).unwrap();
    // The relay has saved that before it polls again.
    let sql = "SELECT count(*) = 1 FROM workflow.consumer_checkpoints WHERE acked_id >= $1 OR window_snapshot IS NULL AND floor_id >= $1";
    wait_until("a checkpoint", || client.query_one(sql, &[&id]).unwrap().get(0));
    server.kill().unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    create_tasks(client, 1);
    wait_until("the later events", || redis.command::<i64>(&["XLEN", "workflow:stream"]).unwrap() == 1 + 2 + 2);
    assert!(!log_of(&server).contains("cannot be delivered"), "{}", log_of(&server));
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_of_a_given_up_consumer_says_how_to_resume() {
    let db = Db::new();
    let redis = Redis::start("relay-given-up").unwrap();
    let client = &mut db.connect();
    let sql = "SELECT workflow.create_consumer('relay'); UPDATE workflow.consumers SET given_up_at = now()";
    client.batch_execute(sql).unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    let line = server.wait_line("was given up", PATIENCE).unwrap();
    assert!(line.contains("workflow.resume_consumer(CONSUMER)"), "{line}");
    client.batch_execute("SELECT workflow.resume_consumer('relay')").unwrap();
    server.wait_line("became leader", PATIENCE).unwrap();
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn server_says_once_that_its_role_cannot_create_partitions() {
    let db = Db::new();
    let redis = Redis::start("relay-rights").unwrap();
    let role = member_of(&db, "workflow_writer");
    let (server, _) = serve(&db.url().replace("//postgres@", &format!("//{role}@")), &redis.url());
    let line = server.wait_line("may not create partitions", PATIENCE).unwrap();
    assert!(line.contains(&role) && line.contains("workflow_admin"), "{line}");
    server.wait_line("became leader", PATIENCE).unwrap();
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

/// Its running relay, and a relay that starts later, know that it existed: the stream has its events.
#[test]
fn vanished_consumer_is_not_recreated_by_its_relay() {
    let db = Db::new();
    let redis = Redis::start("relay-dropped").unwrap();
    let (server, url) = serve(db.url(), &redis.url());
    let client = &mut db.connect();
    wait_for_consumer(client);
    create_tasks(client, 5);
    let length = || redis.command::<i64>(&["XLEN", "workflow:stream"]).unwrap();
    wait_until("the first events", || length() == 6);
    client.batch_execute("SELECT workflow.drop_consumer('relay')").unwrap();
    create_tasks(client, 20);
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let health = |url: &str| {
        let mut response = agent.get(format!("{url}/health")).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_json::<serde_json::Value>().unwrap())
    };
    let says = |url: &str| {
        let (status, body) = health(url);
        status == 503 && body["errors"]["relay"].is_string()
    };
    let line = server.wait_line("consumer \"relay\" no longer exists", PATIENCE).unwrap();
    assert!(line.contains("workflow.create_consumer("), "{line}");
    wait_until("the reason in /health", || says(&url));
    assert_eq!(server.terminate().unwrap().code(), Some(0));
    let (server, url) = serve(db.url(), &redis.url());
    server.wait_line("consumer \"relay\" no longer exists", PATIENCE).unwrap();
    wait_until("the reason in /health", || says(&url));
    assert_eq!(length(), 6);

    // A relay that is new creates it, and then learns from the stream that it existed.
    let sql = "SELECT workflow.drop_consumer('relay'); SELECT workflow.create_consumer('relay', true)";
    client.batch_execute(sql).unwrap();
    wait_until("all events exactly once", || length() == 6 + 21);
    create_tasks(client, 1);
    wait_until("the next events", || length() == 6 + 21 + 2);
    wait_until("health", || health(&url).0 == 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

/// Gives the last event of a task metadata whose text is longer than 1 GB, which its value is not. Returns the event.
fn poison(transaction: &mut postgres::Transaction<'_>, task: Uuid) -> i64 {
    transaction.batch_execute("SET LOCAL session_replication_role = replica").unwrap();
    let sql = "UPDATE workflow.state_history
               SET metadata = ('{\"a\":[' || repeat('1e131071,', 8299) || '1]}')::jsonb WHERE entity_id = $1 RETURNING id";
    transaction.query_one(sql, &[&task]).unwrap().get(0)
}

/// Creates tasks in a new run; the run and each task is an event.
fn create_tasks_in(client: &mut impl postgres::GenericClient, count: usize) -> Vec<Uuid> {
    let names: Vec<String> = (0..count).map(|i| format!("task_{i}")).collect();
    let sql = "SELECT t.id FROM workflow.create_dag_run(workflow.create_dag(gen_random_uuid()::text)) AS run,
               workflow.create_task_instances(run, $1) AS t ORDER BY t.id";
    client.query(sql, &[&names]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn relay_of_a_given_up_consumer_logs_it_once() {
    let db = Db::new();
    let redis = Redis::start("relay-given-up").unwrap();
    let (server, url) = serve(db.url(), &redis.url());
    let client = &mut db.connect();
    wait_for_consumer(client);
    client.batch_execute("UPDATE workflow.consumers SET given_up_at = now()").unwrap();
    let line = server.wait_line("was given up", PATIENCE).unwrap();
    assert!(line.contains("resume_consumer"), "{line}");
    create_task(client);
    // Several attempts.
    for _ in 0..3 {
        let before = sessions(client);
        wait_until("another attempt", || sessions(client) != before);
    }
    client.batch_execute("SELECT workflow.resume_consumer('relay')").unwrap();
    let length = || redis.command::<i64>(&["XLEN", "workflow:stream"]).unwrap();
    wait_until("the events", || length() == 2);
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    wait_until("health", || agent.get(format!("{url}/health")).call().unwrap().status() == 200);
    let log = log_of(&server);
    assert_eq!(log.matches("cannot use PostgreSQL").count(), 1, "logged once:\n{log}");
    assert_eq!(log.matches("reconnected to PostgreSQL").count(), 1, "{log}");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

/// The start of the relay's last session.
fn sessions(client: &mut Client) -> String {
    let sql = "SELECT coalesce(max(backend_start), 'epoch')::text FROM pg_stat_activity
               WHERE application_name = 'workflow-server' AND datname = current_database()";
    client.query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn standby_is_healthy_after_its_leader_publishes() {
    let db = Db::new();
    let redis = Redis::start_with("relay-rejected", &["--maxmemory-policy", "noeviction"]).unwrap();
    let servers = [serve(db.url(), &redis.url()), serve(db.url(), &redis.url())];
    wait_for_consumer(&mut db.connect());
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    create_task(&mut db.connect());
    // Both lead in turn, and are rejected.
    for (server, _) in &servers {
        server.wait_line("cannot use Redis", PATIENCE).unwrap();
    }
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    for (_, url) in &servers {
        wait_until("health", || agent.get(format!("{url}/health")).call().unwrap().status() == 200);
    }
    for (server, _) in servers {
        assert_eq!(server.terminate().unwrap().code(), Some(0));
    }
}

/// Subscribers may delete what they have processed.
#[test]
fn vanished_consumer_is_missed_beside_an_emptied_stream() {
    let db = Db::new();
    let redis = Redis::start("relay-emptied").unwrap();
    let (server, _) = serve(db.url(), &redis.url());
    let client = &mut db.connect();
    wait_for_consumer(client);
    create_tasks(client, 5);
    wait_until("the first events", || redis.command::<i64>(&["XLEN", "workflow:stream"]).unwrap() == 6);
    wait_until("the source", || redis.command::<i64>(&["XLEN", "workflow:stream:source"]).unwrap() == 1);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
    redis.command::<i64>(&["XTRIM", "workflow:stream", "MAXLEN", "0"]).unwrap();
    client.batch_execute("SELECT workflow.drop_consumer('relay')").unwrap();
    create_tasks(client, 20);
    let (server, _) = serve(db.url(), &redis.url());
    server.wait_line("consumer \"relay\" no longer exists", PATIENCE).unwrap();
}

/// A commit is visible, but may not be published. PostgreSQL answers everything else meanwhile.
#[test]
fn relay_is_unhealthy_while_it_waits_for_a_standby() {
    let (cluster, db) = own_cluster("relay-unconfirmed", &[PRELOADED]);
    let redis = Redis::start("relay-unconfirmed").unwrap();
    let (server, url) = serve(db.url(), &redis.url());
    let client = &mut db.connect();
    server.wait_line("became leader", PATIENCE).unwrap();
    let configure = |sql: &str| cluster.psql("postgres", &format!("{sql}; SELECT pg_reload_conf()")).unwrap();
    configure("ALTER SYSTEM SET synchronous_standby_names = 'absent'");
    wait_until("the relay knows the setting", || {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%workflow.read_events%'
                   AND query_start > pg_conf_load_time() + interval '1 s' AND pid <> pg_backend_pid())
                   AND current_setting('synchronous_standby_names') <> ''";
        db.connect().query_one(sql, &[]).unwrap().get(0)
    });
    client.batch_execute("SET synchronous_commit = local").unwrap();
    create_task(client);
    let line = server.wait_line("no response from PostgreSQL", PATIENCE).unwrap();
    assert!(line.contains("synchronous standbys"), "{line}");
    wait_until("the next attempt hangs", || {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%lease_consumer%')";
        client.query_one(sql, &[]).unwrap().get(0)
    });
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = agent.get(format!("{url}/health")).call().unwrap();
    let body = response.body_mut().read_json::<serde_json::Value>().unwrap();
    assert!(response.status() == 503 && body["errors"]["relay"].is_string(), "{body}");
    // Each attempt ends its session: hundreds would hang after an hour.
    let mut attempts = || -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%lease_consumer(%' AND pid <> pg_backend_pid()";
        client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let first = attempts();
    wait_until("the next attempt alone", || matches!(attempts()[..], [next] if !first.contains(&next)));
    configure("ALTER SYSTEM RESET synchronous_standby_names");
    wait_until("the events", || redis.command::<i64>(&["XLEN", "workflow:stream"]).unwrap() == 2);
    wait_until("health", || agent.get(format!("{url}/health")).call().unwrap().status() == 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}
