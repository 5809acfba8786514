//! Access to the HTTP server: tokens, request ids, logs, and limits on clients.

use pg_workflow_tests::*;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Api;

#[test]
fn requests_without_token_are_denied_except_health() {
    let db = Db::new();
    let api = Api::without_relay(&db, &["--token", "s3cret"]);
    let status = |path: &str, header: Option<&str>| {
        let request = api.agent.get(format!("{}{path}", api.url));
        let request = header.into_iter().fold(request, |request, value| request.header("authorization", value));
        request.call().unwrap()
    };
    for path in ["/api/v1/dags", "/api/v1/events", "/metrics", "/openapi.json", "/nothing"] {
        for wrong in
            [None, Some("Bearer s3cre"), Some("Bearer s3cret2"), Some("Basic s3cret"), Some("s3cret"), Some("Bearer ")]
        {
            let mut refused = status(path, wrong);
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["www-authenticate"]),
                (401, &"Bearer".parse().unwrap()),
                "{path}"
            );
            assert_eq!(refused.body_mut().read_json::<Value>().unwrap()["error"]["code"], "unauthorized");
        }
    }
    assert_eq!(status("/health", None).status(), 200);
    assert_eq!(status("/api/v1/dags", Some("bearer s3cret")).status(), 200);
    let mut description = status("/openapi.json", Some("Bearer s3cret"));
    let description: Value = description.body_mut().read_json().unwrap();
    assert!(
        description["paths"]["/api/v1/dags"]["get"]["security"].is_array()
            && description["paths"]["/health"]["get"]["security"].is_null()
    );
}

#[test]
fn token_is_read_from_a_file() {
    let db = Db::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("token"), "s3cret\n").unwrap();
    std::fs::write(path("empty"), "\n").unwrap();
    let api = Api::without_relay(&db, &["--token-file", &path("token")]);
    let ask = |token: &str| {
        let request =
            api.agent.get(format!("{}/api/v1/dags", api.url)).header("authorization", format!("Bearer {token}"));
        request.call().unwrap().status().as_u16()
    };
    assert_eq!((ask("s3cret"), ask("other")), (200, 401));
    let mut health = Command::new(server_binary());
    health.env_clear().args(["health", "--token-file", &path("token")]).env("WORKFLOW_URL", &api.url);
    assert!(health.output().unwrap().status.success());
    let (empty, missing) = (path("empty"), path("missing"));
    for (flags, why) in [
        (&["--token-file", &empty][..], "it is empty"),
        (&["--token-file", &missing], "No such file"),
        (&["--token-file", &missing, "--token", "s3cret"], "No such file"),
    ] {
        let output = Command::new(server_binary()).arg("health").args(flags).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
    }
    for url in ["https://127.0.0.1", "127.0.0.1:8080", "http://127.0.0.1/health", ""] {
        assert_eq!(
            Command::new(server_binary()).args(["health", "--url", url]).output().unwrap().status.code(),
            Some(2)
        );
    }
}

#[test]
fn log_contains_the_request_id() {
    let db = Db::new();
    let api = Api::without_relay(&db, &["--log-format", "json"]);
    let ask = |id: &str| {
        let answer =
            api.agent.get(format!("{}/api/v1/dags?limit=0", api.url)).header("x-request-id", id).call().unwrap();
        answer.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("from-the-proxy-7"), "from-the-proxy-7");
    let long = "x".repeat(200);
    for invalid in ["two words", &long] {
        assert_eq!(ask(invalid).len(), 36, "a new id replaces {invalid:?}");
    }
    let mut logged = Vec::new();
    wait_until("the log", || {
        logged = log_of(api.server()).lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).collect();
        logged.iter().any(|line| line["request_id"] == "from-the-proxy-7")
    });
    let line = logged.iter().find(|line| line["request_id"] == "from-the-proxy-7").unwrap();
    assert_eq!(
        (&line["status"], &line["path"], &line["query"]),
        (&400.into(), &"/api/v1/dags".into(), &"limit=0".into())
    );
}

fn connect(api: &Api) -> TcpStream {
    let stream = TcpStream::connect(api.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn slow_and_large_clients_are_disconnected() {
    let db = Db::new();
    let api = Api::without_relay(&db, &["--clients", "2"]);
    // Both places are taken by clients that send half a request, or nothing: the older one gives way.
    let mut half = connect(&api);
    half.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n").unwrap();
    let mut silent = connect(&api);
    let began = Instant::now();
    let mut third = connect(&api);
    third.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    third.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(5), "it need not wait");
    // The server may answer the slow clients or not; it closes their connections.
    for slow in [&mut half, &mut silent] {
        let end = slow.read_to_end(&mut Vec::new());
        assert!(end.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true), "{end:?}");
    }

    let mut large = connect(&api);
    let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Large: {}\r\n\r\n", "x".repeat(100_000));
    let _ = large.write_all(head.as_bytes());
    let mut answer = [0; 12];
    large.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[test]
fn unsupported_methods_are_rejected_with_allow_header() {
    let db = Db::new();
    let api = Api::without_relay(&db, &[]);
    let refused = api.agent.delete(format!("{}/api/v1/dags", api.url)).call().unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["allow"]), (405, &"GET,HEAD".parse().unwrap()));
    assert_eq!(refused.headers()["x-content-type-options"], "nosniff");
    let dags = format!("{}/api/v1/dags", api.url);
    let (head, get) = (api.agent.head(&dags).call().unwrap(), api.agent.get(&dags).call().unwrap());
    assert_eq!(head.status(), 200);
    for name in ["etag", "cache-control", "content-type", "content-length"] {
        assert_eq!(head.headers()[name], get.headers()[name], "{name}");
    }
    let known = api.agent.head(&dags).header("if-none-match", &get.headers()["etag"]).call().unwrap();
    assert_eq!(known.status(), 304);
}

/// A fault of the configuration: to wait does not help.
#[test]
fn rejected_statement_is_no_outage() {
    let db = Db::new();
    let role = format!("nobody_{}", uuid::Uuid::new_v4().simple());
    db.connect().batch_execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
    let api = Api::at(&db.url_as(&role), &["--log-format", "json"]);
    let request = api.agent.get(format!("{}/api/v1/dags", api.url)).header("x-request-id", "denied-7");
    let mut response = request.call().unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("retry-after")), (500, None));
    let body = response.body_mut().read_json::<Value>().unwrap();
    assert_eq!(body["error"]["code"], "rejected", "{body}");
    assert!(
        body["error"]["message"].as_str().unwrap().contains("(42501)") && !body.to_string().contains(&role),
        "{body}"
    );
    let line = api.server().wait_line("request failed", PATIENCE).unwrap();
    let line = serde_json::from_str::<Value>(&line).unwrap();
    assert_eq!(line["span"]["request_id"], "denied-7", "{line}");
}
