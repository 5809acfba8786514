//! Memory of the server: pages, unread responses and event streams have limits in bytes.

use pg_workflow_tests::*;
use postgres::Client;
use serde_json::Value;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use uuid::Uuid;

use super::Api;
use super::limits::{connect_from, request, status};

const MIB: usize = 1 << 20;
/// The largest page: 4 MiB, or one row.
const PAGE: usize = 5 * MIB;

/// Creates runs with parameters of this size, of which little can be compressed away by the transport but all on disk.
fn create_runs(client: &mut Client, count: i32, bytes: i32) -> Vec<Uuid> {
    // Only superusers can allow values of more than the default.
    let raise = "SELECT set_config(name, '64MB', false) FROM pg_settings WHERE name = 'pg_workflow.max_field_size'";
    client.execute(raise, &[]).unwrap();
    let dag: Uuid = client.query_one("SELECT workflow.create_dag($1)", &[&Uuid::new_v4().to_string()]).unwrap().get(0);
    let sql = "SELECT workflow.create_dag_run($1, timestamptz '2026-01-01 00:00+00' + make_interval(days => n),
                   jsonb_build_object('text', repeat('x', $3)))
               FROM generate_series(1, $2) AS n";
    client.query(sql, &[&dag, &count, &bytes]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Returns a value of the server's `/proc/PID/status`, in bytes.
fn memory(api: &Api, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", api.server().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Sends a request, and reads nothing of the response.
fn leave_unread(api: &Api, path: &str, header: &str) -> TcpStream {
    leave_unread_from("127.0.0.1", api, path, header)
}

fn leave_unread_from(address: &str, api: &Api, path: &str, header: &str) -> TcpStream {
    let mut stream = connect_from(address, api);
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{header}\r\n").unwrap();
    stream
}

#[test]
fn pages_of_large_rows_are_short_and_lose_no_row() {
    let db = Db::new();
    let runs = create_runs(&mut db.connect(), 12, 900_000);
    let api = Api::without_relay(&db, &[]);
    let (mut pages, mut seen) = (0, Vec::new());
    let mut cursor = String::new();
    loop {
        let url = format!("{}/api/v1/dag-runs?limit=1000{cursor}", api.url);
        let text =
            api.agent.get(url).call().unwrap().body_mut().with_config().limit(u64::MAX).read_to_string().unwrap();
        assert!(text.len() < PAGE, "a page of {} bytes", text.len());
        let page: Value = serde_json::from_str(&text).unwrap();
        pages += 1;
        seen.extend(page["items"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert!(pages >= 3, "{pages} pages");
    assert_eq!(seen.len(), runs.len());
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), runs.iter().map(Uuid::to_string).collect());
}

#[test]
fn memory_returns_after_a_burst_of_large_rows() {
    let db = Db::new();
    create_runs(&mut db.connect(), 20, 10_000_000);
    let api = Api::without_relay(&db, &[]);
    for _ in 0..20 {
        api.list("/api/v1/dags");
    }
    let before = memory(&api, "VmRSS");
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                // A row that is larger than a page is a page of its own.
                // On a loaded machine, the list can take too long (503).
                wait_until("a response", || {
                    let mut body = Vec::new();
                    leave_unread(&api, "/api/v1/dag-runs?limit=20", "").read_to_end(&mut body).unwrap();
                    let is_one_row = body.len() > 10_000_000 && body.len() < 11_000_000;
                    assert!(is_one_row || body.starts_with(b"HTTP/1.0 503"), "{} bytes", body.len());
                    is_one_row
                });
            });
        }
    });
    let peak = memory(&api, "VmHWM");
    assert!(peak < 400 * MIB, "{} MiB at the peak", peak / MIB);
    wait_until("the memory", || {
        // The allocator returns memory when it is called.
        api.get("/health");
        memory(&api, "VmRSS") < 2 * before
    });
}

#[test]
fn unread_responses_are_limited() {
    let db = Db::new();
    // More than the buffers of a connection hold.
    create_runs(&mut db.connect(), 1, 12_000_000);
    let api = Api::without_relay(&db, &[]);
    let mut unread = Vec::new();
    wait_until("the limit", || {
        unread.push(leave_unread(&api, "/api/v1/dag-runs", ""));
        let (status, body) = api.get("/api/v1/dags");
        status == 503 && body["error"]["message"].as_str().unwrap().starts_with("too many responses in progress")
    });
    assert_eq!(api.get("/health").0, 200);
    let other = request(connect_from("127.0.0.2", &api), "/api/v1/dags");
    assert_eq!(status(&other), 200, "another address");
    let peak = memory(&api, "VmHWM");
    assert!(peak < 1000 * MIB, "{} MiB at the peak", peak / MIB);
    unread.truncate(1);
    wait_until("a free slot", || api.get("/api/v1/dags").0 == 200);
    // A response in progress is completed.
    let mut body = Vec::new();
    unread[0].read_to_end(&mut body).unwrap();
    assert!(body.starts_with(b"HTTP/1.0 200") && body.ends_with(b"}"));
}

#[test]
fn stalled_followers_keep_little_in_memory() {
    let db = Db::new();
    let client = &mut db.connect();
    let position: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    let api = Api::without_relay(&db, &[]);
    let _live: Vec<TcpStream> = (0..5).map(|_| leave_unread(&api, "/api/v1/events", "")).collect();
    api.list("/api/v1/dags");
    let before = memory(&api, "VmRSS");
    let runs = create_runs(client, 60, 100);
    let sql =
        "SELECT workflow.transition_dag_run($1, 'queued', 'running', jsonb_build_object('text', repeat('x', 900000)))";
    for run in &runs {
        client.execute(sql, &[run]).unwrap();
    }
    let resume = format!("Last-Event-ID: {position}\r\n");
    let _stalled: Vec<TcpStream> = (0..10).map(|_| leave_unread(&api, "/api/v1/events", &resume)).collect();
    // One at another address that reads gets every event meanwhile.
    let reader = leave_unread_from("127.0.0.2", &api, "/api/v1/events", &resume);
    let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
    let mut seen = Vec::new();
    while seen.len() < 2 * runs.len() {
        let line = lines.next().unwrap_or_else(|| panic!("the stream ended: {}", log_of(api.server())));
        if let Some(data) = line.strip_prefix("data: ") {
            let event: Value = serde_json::from_str(data).unwrap();
            seen.push((event["entity_id"].as_str().unwrap().to_owned(), event["version"].as_i64().unwrap()));
        }
    }
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len(), "exactly once");
    let peak = memory(&api, "VmHWM") - before;
    assert!(peak < 150 * MIB, "{} MiB more at the peak", peak / MIB);
}
