//! The HTTP API: health, lists, single entities, and errors for invalid requests.

mod access;
mod claims;
mod events;
mod fuzz;
mod graph;
mod hosts;
mod limits;
mod lists;
mod memory;
mod metrics;
mod nesting;
mod openapi;
mod tenants;
mod waits;

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::Command;
use uuid::Uuid;
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

/// A server and a client for it.
pub struct Api {
    pub agent: ureq::Agent,
    pub url: String,
    server: Server,
}

impl Api {
    fn start(db: &Db, redis: &Redis) -> Api {
        Api::new(serve(db.url(), &redis.url()))
    }

    /// Starts a server without a relay, with these flags.
    pub fn without_relay(db: &Db, flags: &[&str]) -> Api {
        Api::at(db.url(), flags)
    }

    /// Starts a server without a relay on this database, as the user in its URL.
    pub fn at(database_url: &str, flags: &[&str]) -> Api {
        Api::with(&[&["--no-relay", "--database-url", database_url], flags].concat())
    }

    /// Starts a server with these flags.
    pub fn with(flags: &[&str]) -> Api {
        let listen = if flags.contains(&"--listen") { [].as_slice() } else { &["--listen", "127.0.0.1:0"] };
        let arguments = [&["serve"], listen, flags].concat();
        let server = Server::start("http", &server_binary(), &arguments, &[]).expect("the server starts");
        let line = server.wait_line("listening on", PATIENCE).expect("it listens");
        // In a JSON log, the URL is part of an object.
        let (_, url) = line.split_once("listening on ").expect("a URL");
        let url = url.split('"').next().unwrap_or_default().to_owned();
        Api::new((server, url))
    }

    fn new((server, url): (Server, String)) -> Api {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        Api { agent, url, server }
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        let mut response = self.agent.get(format!("{}{path}", self.url)).call().expect("an answer");
        let json = response.body_mut().read_json().unwrap_or_else(|error| panic!("{path} is not JSON: {error}"));
        (response.status().as_u16(), json)
    }

    /// Returns the items of a list, with the cursor of the next page.
    pub fn list(&self, path: &str) -> (Vec<Value>, Option<String>) {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        let cursor = body["next_cursor"].as_str().map(str::to_owned);
        (body["items"].as_array().expect("items").clone(), cursor)
    }
}

#[test]
fn health_reports_the_cause() {
    let db = Db::new();
    let redis = Redis::start("http-health").unwrap();
    let api = Api::start(&db, &redis);
    let relay = json!({"role": "leader", "published": 0, "last_publish": null, "lag_events": 0, "lag_seconds": 0.0});
    let healthy = json!({"status": "healthy", "version": env!("CARGO_PKG_VERSION"), "service": "workflow-server",
                         "database": true, "redis": true, "relay": relay, "standby": null});
    wait_until("the relay", || without_ages(api.get("/health").1) == healthy);
    assert_eq!(api.get("/health").0, 200);
    let (code, stdout, _) = ask_health(&api);
    assert_eq!((code, without_ages(serde_json::from_str(&stdout).unwrap())), (Some(0), healthy));
    redis.stop().unwrap();
    wait_until("the next check", || api.get("/health").0 == 503);
    let (status, body) = api.get("/health");
    assert_eq!((status, &body["status"], &body["redis"]), (503, &json!("unhealthy"), &json!(false)));
    assert!(body["errors"]["redis"].is_string(), "{body}");
    let (code, stdout, stderr) = ask_health(&api);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("503") && stderr.contains(r#""redis":false"#), "{stderr}");
    redis.start_again().unwrap();
    wait_until("health", || api.get("/health").0 == 200);
    assert_eq!(ask_health(&api).0, Some(0));
}

/// Removes the ages of the checks, which are a few seconds at most.
fn without_ages(mut health: Value) -> Value {
    for (object, name) in [("", "age_seconds"), ("/relay", "lag_age_seconds")] {
        let age = health.pointer_mut(object).and_then(Value::as_object_mut).and_then(|object| object.remove(name));
        assert!(age.is_none_or(|age| age.is_null() || age.as_f64().unwrap() < 10.0), "{name}: {health}");
    }
    health
}

/// Runs `workflow-server health`; returns its exit code, standard output and standard error. As in a container, the command
/// has the server's own listen address, which means all interfaces.
fn ask_health(api: &Api) -> (Option<i32>, String, String) {
    let listen = api.url.replace("http://127.0.0.1", "0.0.0.0");
    let mut command = Command::new(server_binary());
    let output = command.env_clear().env("WORKFLOW_LISTEN", listen).arg("health").output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn health_command_times_out() {
    // This listener accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    for (listen, why) in
        [(silent.local_addr().unwrap().to_string(), "no response within 5 s"), ("127.0.0.1:1".into(), "refused")]
    {
        let output = Command::new(server_binary()).args(["health", "--listen", &listen]).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(why) && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn lists_are_filtered_and_paged() {
    let db = Db::new();
    let redis = Redis::start("http-lists").unwrap();
    let api = Api::start(&db, &redis);
    let client = &mut db.connect();
    let tasks = create_tasks(client, 120);
    client
        .query("SELECT * FROM workflow.transition_many('task_instance', $1, 'queued', 'running')", &[&&tasks[..30]])
        .unwrap();
    let other = create_in_state(client, "task_instance", State::Failed);
    let row = client.query_one("SELECT dag_run_id, dag_id, r.state FROM workflow.task_instances t JOIN workflow.dag_runs r ON r.id = dag_run_id WHERE t.id = $1", &[&tasks[0]]).unwrap();
    let (run, dag): (Uuid, Uuid) = (row.get(0), row.get(1));

    // All pages together hold all tasks exactly once, newest first.
    let mut ids: Vec<String> = Vec::new();
    let mut path = "/api/v1/task-instances?limit=50".to_owned();
    loop {
        let (items, cursor) = api.list(&path);
        assert!(items.len() <= 50);
        ids.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = cursor else { break };
        path = format!("/api/v1/task-instances?limit=50&cursor={cursor}");
    }
    let expected: Vec<String> = tasks.iter().chain([&other]).rev().map(Uuid::to_string).collect();
    assert_eq!(ids, expected);
    assert_eq!(api.list("/api/v1/task-instances").0.len(), 50, "the default limit");

    let count = |path: &str| api.list(path).0.len();
    assert_eq!(count(&format!("/api/v1/task-instances?dag_run_id={run}&state=running&limit=1000")), 30);
    assert_eq!(count("/api/v1/task-instances?state=running,failed&limit=1000"), 31);
    assert_eq!(count("/api/v1/task-instances?task_id=task_7"), 1);
    assert_eq!(count(&format!("/api/v1/dag-runs?dag_id={dag}")), 1);
    assert_eq!(count("/api/v1/dag-runs?state=queued"), 2);
    assert_eq!(count(&format!("/api/v1/history?entity_type=task_instance&entity_id={other}")), 2);
    assert_eq!(count("/api/v1/dags?paused=true"), 0);
    client.query_one("SELECT workflow.create_dag('tagged', tags => '[\"etl\"]', is_paused => true)", &[]).unwrap();
    assert_eq!(count("/api/v1/dags?paused=true"), 1);
    assert_eq!(api.list("/api/v1/dags?tag=etl").0[0]["name"], "tagged");
    assert_eq!(api.list("/api/v1/dags?name=tagged").0[0]["tags"], json!(["etl"]));

    let (status, task) = api.get(&format!("/api/v1/task-instances/{other}"));
    assert_eq!(
        (status, &task["state"], &task["version"], &task["try_number"]),
        (200, &json!("failed"), &json!(2), &json!(0))
    );
    assert_eq!((&task["start_date"], &task["error"]), (&Value::Null, &Value::Null), "missing values are null");
    assert_eq!(api.get(&format!("/api/v1/dags/{dag}")).1["start_date"], Value::Null);
    assert_eq!(api.get(&format!("/api/v1/dag-runs/{run}")).1["dag_id"], dag.to_string());
    assert_eq!(api.get(&format!("/api/v1/dags/{dag}")).1["is_paused"], false);
}

#[test]
fn invalid_requests_get_a_clear_error() {
    let db = Db::new();
    let redis = Redis::start("http-errors").unwrap();
    let api = Api::start(&db, &redis);
    let unknown = Uuid::nil();
    let cases = [
        (404, "not_found", format!("/api/v1/dags/{unknown}"), "DAG"),
        (404, "not_found", format!("/api/v1/dag-runs/{unknown}"), "dag"),
        (404, "not_found", format!("/api/v1/task-instances/{unknown}"), "task"),
        (404, "not_found", "/api/v1/nothing".into(), "/api/v1/nothing"),
        (400, "bad_request", "/api/v1/dags/seven".into(), "id"),
        (400, "bad_request", "/api/v1/dag-runs/1'%20OR%20'1'='1".into(), "id"),
        (400, "bad_request", "/api/v1/task-instances?state=bogus".into(), "state"),
        (400, "bad_request", "/api/v1/task-instances?state=".into(), "state"),
        (400, "bad_request", "/api/v1/task-instances?limit=0".into(), "limit"),
        (400, "bad_request", "/api/v1/task-instances?limit=1001".into(), "limit"),
        (400, "bad_request", "/api/v1/task-instances?limit=-1".into(), "limit"),
        (400, "bad_request", "/api/v1/task-instances?limit=99999999999999999999".into(), "limit"),
        (400, "bad_request", "/api/v1/task-instances?cursor=x".into(), "cursor"),
        (400, "bad_request", "/api/v1/task-instances?dag_run_id=x".into(), "dag_run_id"),
        (400, "bad_request", "/api/v1/task-instances?color=red".into(), "color"),
        (400, "bad_request", "/api/v1/task-instances?limit=1&limit=2".into(), "limit"),
        (400, "bad_request", "/api/v1/dags?paused=maybe".into(), "paused"),
        (400, "bad_request", "/api/v1/dags?name=%00".into(), "name"),
        (400, "bad_request", "/api/v1/history?entity_type=task".into(), "entity_type"),
        (400, "bad_request", "/api/v1/history?entity_id=x".into(), "entity_id"),
        (400, "bad_request", "/api/v1/history?cursor=x".into(), "cursor"),
        (400, "bad_request", "/api/v1/history?changed_at_gte=yesterday".into(), "changed_at_gte"),
        (400, "bad_request", "/api/v1/dags?order_by=color".into(), "order_by"),
        (400, "bad_request", "/api/v1/dags?fields=color".into(), "fields"),
        (400, "bad_request", "/api/v1/dags?name_prefix=".into(), "name_prefix"),
        (400, "bad_request", "/api/v1/dags?name=%FF".into(), "name"),
        (400, "bad_request", "/health?verbose=1".into(), "verbose"),
        (400, "bad_request", "/api/v1/events?dag_id=x".into(), "dag_id"),
        (400, "bad_request", "/api/v1/events?last_event_id=x".into(), "last_event_id"),
    ];
    for (status, code, path, names) in cases {
        let (got, body) = api.get(&path);
        assert_eq!((got, &body["error"]["code"]), (status, &json!(code)), "{path}: {body}");
        assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains(names)), "{path}: {body}");
        // The members of RFC 9457.
        assert_eq!((&body["status"], &body["detail"]), (&json!(status), &body["error"]["message"]), "{path}");
    }
    let mut refused = api.agent.delete(format!("{}/api/v1/dags", api.url)).call().unwrap();
    assert_eq!(refused.status(), 405);
    assert_eq!(refused.body_mut().read_json::<Value>().unwrap()["error"]["code"], "method_not_allowed");
}
