//! Following events over HTTP: live, filtered, and again after a break.

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use uuid::Uuid;

use super::Api;
use crate::feed::positions::cut_off;
use xtask::stack::postgres::PRELOADED;

/// A client of server-sent events that works as a browser does.
struct Follower {
    lines: BufReader<TcpStream>,
    last_id: Option<String>,
}

impl Follower {
    fn start(api: &Api, query: &str, last_id: Option<&str>) -> Follower {
        let (mut follower, mut status) = Follower::connect(api, query, last_id);
        // Until the server has found the database.
        wait_until("the server takes followers", || {
            if status.contains("503") {
                (follower, status) = Follower::connect(api, query, last_id);
            }
            !status.contains("503")
        });
        assert!(status.contains("200"), "{status}");
        while !follower.line().is_empty() {}
        // A new follower has its position once it has an id; from then on it misses nothing.
        if last_id.is_none() {
            while follower.last_id.is_none() {
                follower.message();
            }
        }
        follower
    }

    /// Sends a request, and returns the first line of the response.
    fn connect(api: &Api, query: &str, last_id: Option<&str>) -> (Follower, String) {
        let mut stream = TcpStream::connect(api.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let resume = last_id.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        // HTTP/1.0: no chunks between the lines.
        write!(stream, "GET /api/v1/events{query} HTTP/1.0\r\nHost: localhost\r\n{resume}\r\n").unwrap();
        let mut follower = Follower { lines: BufReader::new(stream), last_id: None };
        let status = follower.line();
        (follower, status)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).expect("a line") > 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    /// Reads the next message, which may have no data.
    fn message(&mut self) -> Option<Value> {
        let (mut data, mut is_change) = (None, false);
        loop {
            let line = self.line();
            match line.split_once(": ").or(line.split_once(':')) {
                Some(("id", id)) => self.last_id = Some(id.to_owned()),
                Some(("data", text)) => data = Some(serde_json::from_str(text).expect("JSON")),
                Some(("event", name)) => is_change = name == "change",
                _ if line.is_empty() => {
                    assert_eq!(data.is_some(), is_change);
                    return data;
                }
                _ => (),
            }
        }
    }

    fn event(&mut self) -> Value {
        loop {
            if let Some(event) = self.message() {
                return event;
            }
        }
    }

    /// Reads the id after the events so far.
    fn next_id(&mut self) -> String {
        let before = self.last_id.clone();
        while self.last_id == before {
            assert_eq!(self.message(), None);
        }
        self.last_id.clone().unwrap()
    }

    /// Reads to the end of the stream, which the server closes.
    fn end(mut self) {
        while self.lines.read_line(&mut String::new()).expect("the end") > 0 {}
    }

    /// Reads events, as ids and versions, up to this one.
    fn until(&mut self, id: Uuid, version: i64) -> Vec<(String, i64)> {
        let mut all = Vec::new();
        loop {
            let event = self.event();
            all.push((event["entity_id"].as_str().unwrap().to_owned(), event["version"].as_i64().unwrap()));
            if all.last() == Some(&(id.to_string(), version)) {
                return all;
            }
        }
    }
}

#[test]
fn events_arrive_live_and_filtered() {
    let db = Db::new();
    let client = &mut db.connect();
    let (ours, theirs) = (create_task(client), create_task(client));
    let run: Uuid =
        client.query_one("SELECT dag_run_id FROM workflow.task_instances WHERE id = $1", &[&ours]).unwrap().get(0);
    let api = Api::without_relay(&db, &[]);
    let mut everything = Follower::start(&api, "", None);
    let mut of_run = Follower::start(&api, &format!("?dag_run_id={run}"), None);
    for id in [theirs, ours] {
        start_task(client, id);
    }
    assert_eq!(everything.until(ours, 2), [(theirs.to_string(), 2), (ours.to_string(), 2)]);
    assert_eq!(of_run.until(ours, 2), [(ours.to_string(), 2)]);
    let (listed, _) = api.list("/api/v1/history?limit=1");
    Transition::of(ours).from(State::Running).to(State::Success).run(client).unwrap();
    assert_eq!(
        everything.event().as_object().unwrap().keys().collect::<Vec<_>>(),
        listed[0].as_object().unwrap().keys().collect::<Vec<_>>()
    );
}

#[test]
fn deletion_arrives_with_null_as_new_state() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let api = Api::without_relay(&db, &[]);
    let mut follower = Follower::start(&api, "", None);
    client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap();
    let event = follower.event();
    assert_eq!(
        (&event["entity_id"], &event["old_state"], &event["version"]),
        (&json!(task), &json!("queued"), &json!(2))
    );
    assert_eq!(event.get("new_state"), Some(&Value::Null));
    let (listed, _) = api.list(&format!("/api/v1/history?entity_id={task}&limit=1"));
    assert_eq!(listed[0], event);
}

#[test]
fn reconnecting_follower_misses_no_event() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let api = Api::without_relay(&db, &[]);
    let mut follower = Follower::start(&api, "", None);
    start_task(client, task);
    follower.until(task, 2);
    // The id follows the batch.
    while follower.message().is_some() {}
    let last = follower.last_id.take().unwrap();
    drop(follower);

    // More events than one batch, and a transaction that commits after others with higher ids.
    let mut late = db.connect();
    let mut late = late.transaction().unwrap();
    late.execute("UPDATE workflow.task_instances SET state = 'success' WHERE id = $1", &[&task]).unwrap();
    let many = create_tasks(client, 1200);
    let mut follower = Follower::start(&api, "", Some(&last));
    let seen = follower.until(many[1199], 1);
    assert_eq!(seen.len(), 1201, "the run and its tasks, exactly once");
    late.commit().unwrap();
    assert_eq!(follower.until(task, 3).len(), 1);
    // No event is lost or delivered twice between catching up and following.
    let more = create_tasks(client, 50);
    assert_eq!(follower.until(more[49], 1).len(), 51);
}

#[test]
fn stalled_follower_delays_no_other() {
    let db = Db::new();
    let client = &mut db.connect();
    let api = Api::without_relay(&db, &["--followers", "2"]);
    let _stalled = Follower::start(&api, "", None);
    let mut follower = Follower::start(&api, "", None);
    assert_eq!(api.get("/api/v1/events").0, 503, "all slots are taken");
    for _ in 0..20 {
        let tasks = create_tasks(client, 1000);
        assert_eq!(follower.until(tasks[999], 1).len(), 1001);
    }
    drop(follower);
    wait_until("a free slot", || {
        let mut stream = TcpStream::connect(api.url.trim_start_matches("http://")).unwrap();
        write!(stream, "GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.contains("200")
    });
}

#[test]
fn followers_survive_database_restart() {
    let (cluster, db) = own_cluster("http-events", &[]);
    let client = &mut db.connect();
    let task = create_task(client);
    let api = Api::without_relay(&db, &[]);
    let mut follower = Follower::start(&api, "", None);
    start_task(client, task);
    follower.until(task, 2);
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    Transition::of(task).from(State::Running).to(State::Success).run(&mut db.connect()).unwrap();
    assert_eq!(follower.until(task, 3).last(), Some(&(task.to_string(), 3)));
}

#[test]
fn followers_are_told_that_a_promotion_lost_events() {
    let (primary, db) = own_cluster("http-promotion", &[PRELOADED]);
    let standby = primary.standby("http-promotion").unwrap();
    let hosts = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/workflow", primary.port(), standby.port());
    let api = Api::at(&hosts, &[]);
    let client = &mut db.connect();
    let task = create_task(client);
    let mut follower = Follower::start(&api, "", None);
    start_task(client, task);
    follower.until(task, 2);
    let shared = follower.next_id();
    cut_off(&primary, &standby);
    Transition::of(task).from(State::Running).to(State::Success).run(client).unwrap();
    follower.until(task, 3);
    let lost = follower.next_id();
    drop(db.without_verification());
    primary.kill().unwrap();
    standby.promote().unwrap();

    let promoted = Db::at(standby.url("workflow"));
    let client = &mut promoted.connect();
    Transition::of(task).from(State::Running).to(State::Failed).run(client).unwrap();
    // Also beyond the ids of the lost timeline.
    create_tasks(client, 50);
    follower.end();
    let path = format!("/api/v1/events?last_event_id={lost}");
    wait_until("the server has found the new primary", || api.get(&path).0 != 503);
    let (status, body) = api.get(&path);
    assert_eq!((status, &body["error"]["parameter"]), (400, &"last_event_id".into()), "{body}");
    let mut follower = Follower::start(&api, "", Some(&shared));
    assert_eq!(follower.until(task, 3), [(task.to_string(), 3)]);
}

/// The EventSource of a browser ends for good at an error, but comes back after the end of a stream.
#[test]
fn event_source_is_told_to_return_during_an_outage() {
    let api = Api::at("postgres://postgres@127.0.0.1:1/workflow", &[]);
    let ask = |accept: &str| {
        let request = api.agent.get(format!("{}/api/v1/events", api.url)).header("accept", accept);
        let mut response = request.call().unwrap();
        let body = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap().to_owned(), body)
    };
    let (status, kind, body) = ask("text/event-stream");
    assert_eq!((status, kind.as_str()), (200, "text/event-stream"), "{body}");
    assert!(body.starts_with("retry: 3000\n: database unavailable") && body.ends_with("\n\n"), "{body}");
    let (status, kind, body) = ask("*/*");
    assert_eq!((status, kind.as_str()), (503, "application/problem+json"), "{body}");
}
