//! The header `Host`: a page of another name (DNS rebinding) must not read the server.

use pg_workflow_tests::*;
use serde_json::Value;

use super::Api;

/// Returns the status and the error code of a request with this `Host`.
fn ask(api: &Api, host: &str, path: &str) -> (u16, Value) {
    let mut response = api.agent.get(format!("{}{path}", api.url)).header("host", host).call().expect("an answer");
    let status = response.status().as_u16();
    let body = response.body_mut().read_json::<Value>().unwrap_or_default();
    (status, body["error"]["code"].clone())
}

#[test]
fn loopback_server_rejects_hosts_of_other_names() {
    let db = Db::new();
    let api = Api::without_relay(&db, &[]);
    for path in ["/api/v1/dags", "/health", "/api/v1/events", "/"] {
        for host in ["evil.example", "evil.example:8080", "192.168.0.7", "localhost.evil.example", "0.0.0.0"] {
            assert_eq!(ask(&api, host, path), (421, "misdirected".into()), "{host}{path}");
        }
    }
    for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "[::1]:8080"] {
        assert_eq!(ask(&api, host, "/api/v1/dags"), (200, Value::Null), "{host}");
    }
}

#[test]
fn allowed_hosts_are_accepted() {
    let db = Db::new();
    let api = Api::without_relay(&db, &["--allowed-host", "workflow.example", "--allowed-host", "other.example"]);
    for (host, status) in
        [("workflow.example", 200), ("other.example:443", 200), ("evil.example", 421), ("localhost", 200)]
    {
        assert_eq!(ask(&api, host, "/api/v1/dags").0, status, "{host}");
    }
}

/// As in a container, or for a whole network: an attacker's name can point there, too.
#[test]
fn other_server_rejects_names_that_are_not_allowed() {
    let db = Db::new();
    let start = |more: &[&str]| {
        let flags = ["--listen", "0.0.0.0:0", "--no-relay", "--database-url", db.url()];
        let mut api = Api::with(&[&flags, more].concat());
        api.url = api.url.replace("0.0.0.0", "127.0.0.1");
        api
    };
    let (strict, named) = (start(&[]), start(&["--allowed-host", "workflow.example"]));
    for (host, status) in [
        ("workflow.example", 421),
        ("evil.example", 421),
        ("192.168.0.7:80", 200),
        ("[fe80::1]", 200),
        ("localhost", 200),
    ] {
        assert_eq!(ask(&strict, host, "/api/v1/dags").0, status, "{host}");
    }
    assert_eq!(["workflow.example", "evil.example"].map(|host| ask(&named, host, "/").0), [200, 421]);
}
