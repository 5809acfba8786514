//! Tenants over HTTP: a role of its own for requests sees its rows and its events only.

use pg_workflow_tests::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use uuid::Uuid;

use super::Api;
use super::limits::connect_from;

/// Reads the events of a stream until that of this task.
fn tasks_until(stream: &mut BufReader<TcpStream>, last: Uuid) -> Vec<String> {
    let mut tasks = Vec::new();
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended after {tasks:?}");
        let Some(event) = line.strip_prefix("data: ") else { continue };
        let event: Value = serde_json::from_str(event).unwrap();
        let id = event["entity_id"].as_str().unwrap().to_owned();
        if id == last.to_string() {
            return tasks;
        }
        tasks.push(id);
    }
}

#[test]
fn requests_see_rows_and_events_of_their_role_only() {
    let db = Db::new();
    let owner = &mut db.connect();
    let roles = [(); 2].map(|()| format!("tenant_{}", Uuid::new_v4().simple()));
    for role in &roles {
        owner.batch_execute(&format!("CREATE ROLE {role} LOGIN IN ROLE workflow_writer")).unwrap();
    }
    owner.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    let [mine, theirs] = roles.each_ref().map(|role| db.connect_as(role));
    let (mut mine, mut theirs) = (mine, theirs);
    let my_url = db.url_as(&roles[0]);
    let api = Api::without_relay(&db, &["--http-database-url", &my_url]);
    let follow = |id: &str| {
        let mut stream = connect_from("127.0.0.1", &api);
        write!(stream, "GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\nLast-Event-ID: {id}\r\n\r\n").unwrap();
        let mut stream = BufReader::new(stream);
        let mut status = String::new();
        stream.read_line(&mut status).unwrap();
        assert!(status.contains(" 200 "), "{status}");
        stream
    };
    let beginning: String = owner.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    let mut live = follow("");
    let before = create_task(&mut mine);
    let hidden = create_tasks(&mut theirs, 3);
    let after = create_task(&mut mine);

    for stream in [&mut live, &mut follow(&beginning)] {
        let seen = tasks_until(stream, after);
        assert!(seen.contains(&before.to_string()), "{seen:?}");
        assert!(hidden.iter().all(|task| !seen.contains(&task.to_string())), "{seen:?}");
    }
    let listed = api.list("/api/v1/task-instances?limit=1000").0;
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert_eq!(api.get(&format!("/api/v1/task-instances/{}", hidden[0])).0, 404);
    assert_eq!(api.list("/api/v1/history?limit=1000").0.len(), 4);
    // A live event of the other tenant, and then one of this one.
    create_task(&mut theirs);
    let last = create_task(&mut mine);
    let seen = tasks_until(&mut live, last);
    assert_eq!(seen.len(), 1, "the run: {seen:?}");
}

#[test]
fn health_checks_the_role_of_requests() {
    let db = Db::new();
    let url = db.url_as("no_such_role");
    let api = Api::without_relay(&db, &["--http-database-url", &url]);
    let (status, body) = api.get("/health");
    assert_eq!((status, &body["database"]), (503, &Value::Bool(false)), "{body}");
}
