//! JSON that is nested more deeply than parsers of values accept.

use pg_workflow_client::DagRuns;
use pg_workflow_tests::*;
use serde_json::Value;
use serde_json::value::RawValue;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use uuid::Uuid;

use super::Api;

const DEPTH: usize = 2000;

/// Creates a run with deep parameters and moves it with deep metadata; returns it and the position before.
fn create(db: &Db) -> (Uuid, String, String) {
    let client = &mut db.connect();
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let sql = "SELECT workflow.create_dag_run(workflow.create_dag('deep'), now(), $1::text::jsonb), workflow.current_position()";
    let row = client.query_one(sql, &[&deep]).unwrap();
    let (run, position) = (row.get(0), row.get(1));
    let sql = "SELECT workflow.transition_dag_run($1, 'queued', 'running', $2::text::jsonb)";
    client.query_one(sql, &[&run, &deep]).unwrap();
    (run, position, deep)
}

#[test]
fn deep_json_is_passed_on_unparsed() {
    let db = Db::new();
    let (run, position, deep) = create(&db);
    let api = Api::without_relay(&db, &[]);
    let text = |path: &str| {
        let mut response = api.agent.get(format!("{}{path}", api.url)).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    };
    for path in [
        "/api/v1/history?limit=1".to_owned(),
        "/api/v1/history?limit=1&fields=metadata".to_owned(),
        "/api/v1/dag-runs".to_owned(),
        "/api/v1/dag-runs?fields=conf".to_owned(),
        format!("/api/v1/dag-runs/{run}"),
    ] {
        let (status, body) = text(&path);
        assert!(status == 200 && body.contains(&deep), "{path}: {status}");
    }
    let mut stream = TcpStream::connect(api.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\nLast-Event-ID: {position}\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("data: ") && line.contains(&deep)));
    for arguments in [
        vec!["history", &run.to_string(), "--json"],
        vec!["history", &run.to_string()],
        vec!["show", "deep"],
        vec!["show", "deep", "--json"],
        vec!["list", "runs", "--json"],
    ] {
        let mut command = Command::new(server_binary());
        let output = command.env_clear().env("DATABASE_URL", db.url()).args(&arguments).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
    }
}

#[test]
fn parsing_deep_json_fails_with_a_clear_error() {
    let db = Db::new();
    let (run, _, deep) = create(&db);
    let found = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = pg_workflow_client::connect::PostgresServer::parse(db.url()).unwrap();
        DagRuns::new(&server.connect().await.unwrap()).get(run).await.unwrap().unwrap()
    });
    assert_eq!(found.parse_conf::<Box<RawValue>>().unwrap().get(), deep);
    let error = found.parse_conf::<Value>().unwrap_err();
    assert!(error.to_string().contains("nested deeper than 127"), "{error}");
    assert!(error.hint().contains("RawValue"), "{}", error.hint());
}
