//! `GET /metrics`: what requests, connections and the database show.

use super::*;

fn scrape(api: &Api) -> String {
    api.agent.get(format!("{}/metrics", api.url)).call().unwrap().body_mut().read_to_string().unwrap()
}

/// Returns the value of a series, written as in the text.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn metrics_count_requests_by_route_and_status() {
    let db = Db::new();
    let api = Api::without_relay(&db, &[]);
    for _ in 0..3 {
        api.get(&format!("/api/v1/dags/{}", Uuid::now_v7()));
    }
    api.get("/api/v1/dags");
    api.get("/api/v1/dags?color=red");
    api.get("/no/such/path");
    let text = scrape(&api);
    for (route, status, requests) in
        [("/api/v1/dags/{id}", 404, 3.0), ("/api/v1/dags", 200, 1.0), ("/api/v1/dags", 400, 1.0), ("unknown", 404, 1.0)]
    {
        let labels = format!("{{route=\"{route}\",status=\"{status}\"}}");
        let count = value(&text, &format!("workflow_http_request_duration_seconds_count{labels}"));
        assert_eq!(count, Some(requests), "{labels}: {text}");
    }
    // Kept from one scrape to the next, which counts the first one, too.
    let scrapes = r#"workflow_http_request_duration_seconds_count{route="/metrics",status="200"}"#;
    assert_eq!(value(&scrape(&api), scrapes), Some(1.0));
    assert!(!text.contains("no/such"), "{text}");
}

#[test]
fn metrics_show_connections_and_who_waits_for_them() {
    let db = Db::new();
    let api = Api::without_relay(&db, &["--connections", "1"]);
    let pool = |what: &str| value(&scrape(&api), &format!("workflow_pool_{what}{{pool=\"primary\"}}")).unwrap();
    api.get("/api/v1/dags");
    wait_until("the connection is free", || pool("idle_connections") == 1.0 && pool("in_use_connections") == 0.0);
    let mut client = db.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE workflow.dags").unwrap();
    std::thread::scope(|scope| {
        let list = || api.agent.get(format!("{}/api/v1/dags", api.url)).call().unwrap().status().as_u16();
        let requests = [scope.spawn(list), scope.spawn(list)];
        wait_until("one request waits", || pool("waiting_requests") == 1.0 && pool("in_use_connections") == 1.0);
        lock.rollback().unwrap();
        requests.into_iter().for_each(|request| assert_eq!(request.join().unwrap(), 200));
    });
    wait_until("no request waits", || pool("waiting_requests") == 0.0 && pool("idle_connections") == 1.0);
}

#[test]
fn metrics_count_followers_while_they_follow() {
    let db = Db::new();
    let api = Api::without_relay(&db, &[]);
    let followers = || value(&scrape(&api), "workflow_followers").unwrap();
    assert_eq!(followers(), 0.0);
    let stream = api.agent.get(format!("{}/api/v1/events", api.url)).call().unwrap();
    assert_eq!(followers(), 1.0);
    drop(stream);
    // Noticed at the next event or heartbeat.
    wait_until("the follower is gone", || followers() == 0.0);
}

#[test]
fn metrics_have_states_consumers_partitions_and_batches() {
    let db = Db::new();
    let client = &mut db.connect();
    client.query("SELECT workflow.create_consumer('late \"one\"')", &[]).unwrap();
    let (_, run) = create_run(client);
    let tasks: Vec<String> = (0..7).map(|task| format!("t{task}")).collect();
    client.query("SELECT workflow.create_task_instances($1, $2)", &[&run, &tasks]).unwrap();
    let redis = Redis::start("http-metrics").unwrap();
    let api = Api::start(&db, &redis);
    let series = |text: &str, series: &str| value(text, &format!("workflow_{series}"));
    let tasks = r#"entities{entity_type="task_instance",state="queued"}"#;
    let late = r#"consumer_lag_events{consumer="late \"one\""}"#;
    let all = |text: &str| series(text, tasks) == Some(7.0) && series(text, late) == Some(8.0);
    wait_until("the counts", || all(&scrape(&api)));
    let text = scrape(&api);
    for (name, expected) in [
        (r#"entities{entity_type="dag_run",state="queued"}"#, 1.0),
        (r#"entities{entity_type="task_instance",state="failed"}"#, 0.0),
        (r#"stuck_entities{entity_type="task_instance"}"#, 0.0),
        (r#"partitions{table="state_history",role="current"}"#, 1.0),
    ] {
        assert_eq!(series(&text, name), Some(expected), "{name}: {text}");
    }
    assert!(series(&text, r#"consumer_lag_seconds{consumer="late \"one\""}"#) > Some(0.0), "{text}");
    assert!(series(&text, r#"partition_bytes{table="task_logs",role="current"}"#) > Some(0.0), "{text}");

    wait_until("the relay leads", || series(&scrape(&api), "relay_leader") == Some(1.0));
    client.execute("UPDATE workflow.task_instances SET state = 'running'", &[]).unwrap();
    wait_until("the events are relayed", || series(&scrape(&api), "relay_events_published_total") == Some(7.0));
    let text = scrape(&api);
    let batches = series(&text, "relay_batch_events_count");
    assert!(batches > Some(0.0), "{text}");
    let bucket = |limit: &str| series(&text, &format!("relay_batch_events_bucket{{le=\"{limit}\"}}"));
    assert_eq!(
        (series(&text, "relay_batch_events_sum"), bucket("20.0"), bucket("+Inf")),
        (Some(7.0), batches, batches)
    );
}
