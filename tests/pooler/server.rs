//! `workflow-server` and readers of the feed.

use super::*;
use futures_util::TryStreamExt;
use pg_workflow_client::Error;
use pg_workflow_client::event::Event;
use pg_workflow_client::feed::Feed;
use pg_workflow_client::redis_server::RedisServer;
use pg_workflow_client::subscriber::Subscriber as Source;
use pg_workflow_state_machine::State;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

use crate::server::http::Api;

/// Makes events, also through the pooler, beside the client under test.
fn make_events(pooled: &Pooled) -> i64 {
    let client = &mut pooled.connect_pooled();
    // Without prepared statements, which PgBouncer 1.18 does not know.
    for _ in 0..10 {
        let sql = "SELECT workflow.create_dag_run(workflow.create_dag(gen_random_uuid()::text))";
        client.batch_execute(sql).unwrap();
        client.batch_execute("UPDATE workflow.dag_runs SET state = 'running' WHERE state = 'queued'").unwrap();
    }
    events(pooled)
}

fn events(pooled: &Pooled) -> i64 {
    pooled.connect().query_one("SELECT count(*) FROM workflow.state_history", &[]).unwrap().get(0)
}

#[test]
fn relay_works_through_each_pooler() {
    through_each_pooler(|pooled| {
        let redis = Redis::start("pooler-relay").unwrap();
        let (server, _) = serve(&pooled.url(), &redis.url());
        let (standby, _) = serve(&pooled.url(), &redis.url());
        let client = &mut pooled.connect();
        wait_until("a leader", || {
            let sql =
                "SELECT EXISTS (SELECT FROM workflow.consumers WHERE name = 'relay' AND lease_expires_at IS NOT NULL)";
            client.query_one(sql, &[]).unwrap().get(0)
        });
        let stored = || redis.command::<i64>(&["XLEN", "workflow:stream"]).unwrap();
        let made = make_events(pooled);
        wait_until("all events", || stored() == made);
        // Maintenance, which works only at READ COMMITTED.
        wait_until("counts", || {
            let sql = "SELECT coalesce(max(floor_id), 0)::bigint FROM workflow.state_count_place";
            client.query_one(sql, &[]).unwrap().get::<_, i64>(0) > 0
        });
        let log = log_of(&server);
        server.kill().unwrap();
        let made = make_events(pooled);
        wait_until("all events after a takeover", || stored() == made);
        let logs = [log, log_of(&standby)];
        standby.terminate().unwrap();
        assert_eq!(stored(), made);
        // Commits of others would not wait for the disk, nor for a standby.
        assert_eq!(pooled.left(), [""; 0]);
        for log in logs {
            assert!(!log.contains("WARN"), "{log}");
            assert_eq!(log.matches("through a pooler").count(), 1, "{log}");
        }
    });
}

#[test]
fn http_works_through_each_pooler() {
    through_each_pooler(|pooled| {
        make_events(pooled);
        let client = &mut pooled.connect();
        let (dag, run) = create_run(client);
        let task = create_tasks(client, 1)[0];
        let api = Api::at(&pooled.url(), &[]);
        wait_until("health", || api.get("/health").0 == 200);
        for _ in 0..3 {
            for path in [
                "/api/v1/dags".to_owned(),
                format!("/api/v1/dags/{dag}"),
                "/api/v1/dag-runs?state=running&limit=5".to_owned(),
                format!("/api/v1/dag-runs/{run}"),
                format!("/api/v1/dag-runs/{run}/graph"),
                "/api/v1/task-instances".to_owned(),
                format!("/api/v1/task-instances/{task}"),
                "/api/v1/history".to_owned(),
                "/api/v1/claims".to_owned(),
                "/api/v1/queues".to_owned(),
                "/readyz".to_owned(),
            ] {
                let (status, body) = api.get(&path);
                assert_eq!(status, 200, "{path}: {body}");
            }
        }
        let follower = follow(&api);
        wait_until("live events", || {
            make_events(pooled);
            follower.lock().unwrap().len() >= 10
        });
        let log = log_of(api.server());
        assert!(!log.contains("WARN"), "{log}");
    });
}

/// Follows the events of a server, until the test ends.
fn follow(api: &Api) -> Arc<Mutex<Vec<String>>> {
    let (agent, url, seen) = (api.agent.clone(), api.url.clone(), Arc::new(Mutex::new(Vec::new())));
    let lines = seen.clone();
    std::thread::spawn(move || {
        let response = agent.get(format!("{url}/api/v1/events")).call().expect("events");
        let reader = std::io::BufReader::new(response.into_body().into_reader());
        let events = std::io::BufRead::lines(reader).map_while(Result::ok).filter(|line| line.starts_with("data:"));
        events.for_each(|event| lines.lock().unwrap().push(event));
    });
    seen
}

/// What breaks all requests breaks the check, too.
#[test]
fn health_asks_as_requests_do() {
    for ignores_options in [false, true] {
        let Some(pooled) = Pooled::start("transaction", 2, ignores_options) else { return };
        let api = Api::at(&format!("{}?options=-c%20search_path%3Dpublic", pooled.url()), &[]);
        wait_until("a check", || api.get("/health").0 == 503);
        assert_eq!(api.get("/api/v1/dags").0, 503);
        let log = log_of(api.server());
        assert!(log.contains("drops the options of the connection string"), "{log}");
    }
}

#[test]
fn watch_shows_events_through_each_pooler() {
    through_each_pooler(|pooled| {
        let watch = Server::start("watch", &server_binary(), &["watch", "--json"], &[("DATABASE_URL", &pooled.url())]);
        let watch = watch.unwrap();
        let shown = || std::fs::read_to_string(watch.log()).unwrap_or_default();
        wait_until("events", || {
            make_events(pooled);
            shown().contains("\"new_state\":\"running\"")
        });
        let last =
            pooled.connect().query_one("SELECT workflow.create_dag_run(workflow.create_dag('last'))", &[]).unwrap();
        let last: Uuid = last.get(0);
        wait_until("the last event", || shown().contains(&last.to_string()));
        assert!(!shown().contains("WARN"), "{}", shown());
        assert_eq!(watch.terminate().unwrap().code(), Some(0));
    });
}

#[test]
fn commands_work_through_each_pooler() {
    through_each_pooler(|pooled| {
        // The workers of a replay renew their leases at the default, and warn that they try again.
        pooled.reset("default_transaction_isolation");
        make_events(pooled);
        let client = &mut pooled.connect();
        let (_, run) = create_run(client);
        let task = create_tasks(client, 1)[0];
        let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/../client/examples/traces/etl.json");
        for arguments in [
            "list dags".to_owned(),
            "list runs".to_owned(),
            "list tasks".to_owned(),
            "list claims".to_owned(),
            "list queues".to_owned(),
            format!("show {run}"),
            format!("show {task}"),
            format!("history {task}"),
            format!("why {task}"),
            "verify".to_owned(),
            "reap".to_owned(),
            "migrate version".to_owned(),
            "migrate up".to_owned(),
            format!("cancel {task}"),
            format!("replay {trace} --within 2"),
        ] {
            let mut command = Command::new(server_binary());
            command.env_clear().env("DATABASE_URL", pooled.url()).args(arguments.split(' '));
            let done = command.output().unwrap();
            let errors = String::from_utf8(done.stderr).unwrap();
            assert_eq!(done.status.code(), Some(0), "{arguments}: {errors}");
            assert!(!errors.contains("WARN"), "{arguments}: {errors}");
            assert_eq!(pooled.left(), [""; 0], "{arguments}");
        }
    });
}

/// Runs a subscriber until it has handled these events, and stops it.
fn handle(mut source: Source, pooled: &Pooled) {
    let (handled, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let running = runtime.spawn({
        let (handled, stop) = (handled.clone(), stop.clone());
        let handler = move |event: Event| {
            handled.lock().unwrap().push(event.id);
            async { Ok::<(), Error>(()) }
        };
        async move { source.run(handler, stop).await }
    });
    // It begins now, at some point in time.
    wait_until("some event", || {
        make_events(pooled);
        !handled.lock().unwrap().is_empty()
    });
    make_events(pooled);
    let sql = "SELECT id FROM workflow.state_history WHERE id >= $1";
    let first = handled.lock().unwrap()[0];
    let written: Vec<i64> = pooled.connect().query(sql, &[&first]).unwrap().iter().map(|row| row.get(0)).collect();
    wait_until("all events", || {
        let handled = handled.lock().unwrap();
        written.iter().all(|id| handled.contains(id))
    });
    stop.cancel();
    runtime.block_on(running).unwrap();
}

#[test]
fn subscribers_work_through_each_pooler() {
    through_each_pooler(|pooled| {
        let redis = Redis::start("pooler-subscriber").unwrap();
        let (relay, _) = serve(&pooled.url(), &redis.url());
        handle(Source::consumer(pooled.server(), "subscriber"), pooled);
        handle(Source::follow(pooled.server(), None), pooled);
        let channel = RedisServer::parse(&redis.url()).unwrap();
        handle(Source::channel(channel, "workflow:events", pooled.server()), pooled);
        relay.terminate().unwrap();
    });
}

#[test]
fn feed_works_through_each_pooler() {
    through_each_pooler(|pooled| {
        run(async {
            let mut feed = Feed::open(&pooled.server(), "reader").await.unwrap();
            assert!(feed.lease("me", Duration::from_secs(60)).await.unwrap());
            let mut other = Feed::open(&pooled.server(), "reader").await.unwrap();
            assert!(!other.lease("you", Duration::from_secs(60)).await.unwrap());
            let created = "SELECT workflow.create_dag_run(workflow.create_dag('one'))";
            let client = pooled.server().connect().await.unwrap();
            client.batch_execute(created).await.unwrap();
            let mut read = Vec::new();
            while read.is_empty() {
                let events = feed.read(10, Duration::from_secs(2)).await.unwrap();
                read = events.try_collect::<Vec<Event>>().await.unwrap();
            }
            assert_eq!(read[0].new_state, Some(State::Queued));
            feed.ack(read[0].id).await.unwrap();
            feed.save_checkpoint([1, 0]).await.unwrap();
            assert_eq!(feed.rewind([1, 0]).await.unwrap(), Some([1, 0]));
            feed.release().await.unwrap();
            assert!(other.lease("you", Duration::from_secs(60)).await.unwrap());
        });
    });
}

/// Without preloading, a notification wakes a reader: the session of a pooler would listen for other clients.
#[test]
fn reader_listens_to_nothing_behind_a_pooler() {
    let (_cluster, db) = own_cluster("pooler-listens", &[]);
    let settings = Settings { mode: "transaction", connections: 3, ignores_options: false };
    let Some(pooled) = Pooled::before(db, settings) else { return };
    handle(Source::consumer(pooled.server(), "subscriber"), &pooled);
    handle(Source::follow(pooled.server(), None), &pooled);
    assert_eq!(pooled.left(), [""; 0]);
}
