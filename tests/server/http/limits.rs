//! Limits of connections, followers and responses, which one client must not use up for the others.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_tests::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;

use super::Api;

fn address(api: &Api) -> SocketAddr {
    api.url.trim_start_matches("http://").parse().unwrap()
}

/// Connects from an address of this machine.
pub fn connect_from(from: &str, api: &Api) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(address(api)).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request without reading the response.
pub fn request(mut stream: TcpStream, path: &str) -> TcpStream {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    stream
}

pub fn status(stream: &TcpStream) -> u16 {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line:?}")).parse().unwrap()
}

/// Connects as often as this, and sends half of a request.
fn half_open(api: &Api, count: usize) -> Vec<TcpStream> {
    let half = |_| {
        let mut stream = TcpStream::connect(address(api)).unwrap();
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n");
        stream
    };
    (0..count).map(half).collect()
}

#[test]
fn health_stays_quick_amid_half_open_requests() {
    let db = Db::new();
    let api = Api::without_relay(&db, &[]);
    assert_eq!(api.get("/health").0, 200);
    let _half = half_open(&api, 1010);
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(status(&request(connect_from("127.0.0.1", &api), "/health")), 200);
        assert_eq!(status(&request(connect_from("127.0.0.2", &api), "/api/v1/dags")), 200);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

#[test]
fn busy_connections_leave_a_reserve_for_probes() {
    let db = Db::new();
    let api = Api::without_relay(&db, &["--clients", "2"]);
    let _busy = [(); 2].map(|()| {
        let follower = request(connect_from("127.0.0.1", &api), "/api/v1/events");
        assert_eq!(status(&follower), 200);
        follower
    });
    let ask = |path: &str| {
        let mut answer = String::new();
        request(connect_from("127.0.0.2", &api), path).read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/health").starts_with("HTTP/1.0 200"));
    let refused = ask("/api/v1/dags").to_lowercase();
    assert!(refused.starts_with("http/1.0 503") && refused.contains("retry-after: 1"), "{refused}");
    let (_, body) = refused.split_once("\r\n\r\n").unwrap();
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["error"]["code"], "unavailable");
}

#[test]
fn one_address_leaves_follower_slots_to_others() {
    let db = Db::new();
    let api = Api::without_relay(&db, &["--followers", "4", "--followers-per-address", "2"]);
    let follow = |from: &str| {
        let follower = request(connect_from(from, &api), "/api/v1/events");
        (status(&follower), follower)
    };
    let greedy = [(); 3].map(|()| follow("127.0.0.1"));
    assert_eq!(greedy.each_ref().map(|(status, _)| *status), [200, 200, 503]);
    let other = follow("127.0.0.2");
    assert_eq!(other.0, 200);
    drop(greedy);
    wait_until("a free slot", || follow("127.0.0.1").0 == 200);
}

#[test]
fn probes_open_no_connection_per_request() {
    let db = Db::new();
    let api = Api::without_relay(&db, &[]);
    let client = &mut db.connect();
    assert_eq!(api.get("/health").0, 200);
    let mut sessions = || -> i64 {
        let sql = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()";
        client.batch_execute("SELECT pg_stat_clear_snapshot()").unwrap();
        client.query_one(sql, &[]).unwrap().get(0)
    };
    // Sessions are counted a little later.
    std::thread::sleep(Duration::from_secs(2));
    let before = sessions();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for path in ["/health", "/metrics"].repeat(10) {
                    assert_eq!(api.agent.get(format!("{}{path}", api.url)).call().unwrap().status(), 200);
                }
            });
        }
    });
    std::thread::sleep(Duration::from_secs(2));
    let opened = sessions() - before;
    assert!(opened < 10, "{opened} sessions for 200 requests");
}

/// A server that accepts connections and says nothing: each attempt leaves it a connection.
#[test]
fn probes_make_one_attempt_at_a_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let url = format!("postgres://postgres@{}/d", silent.local_addr().unwrap());
    let api = Api::at(&url, &[]);
    let (mut attempts, began) = (Vec::new(), Instant::now());
    while began.elapsed() < Duration::from_secs(7) {
        assert_eq!(api.get("/health").0, 503);
        attempts.extend(silent.accept().ok());
        std::thread::sleep(Duration::from_millis(50));
    }
    // That of the checks, and that of the counts.
    assert!(attempts.len() <= 2, "{} attempts", attempts.len());
}

#[test]
fn probes_leave_no_statement_behind() {
    let db = Db::new();
    let redis = xtask::stack::redis::Redis::start("http-probes").unwrap();
    let api = Api::start(&db, &redis);
    let (mut client, mut locks) = (db.connect(), db.connect());
    wait_until("health", || api.get("/health").0 == 200);
    let mut lock = locks.transaction().unwrap();
    // The counts wait for it.
    lock.batch_execute("LOCK TABLE workflow.consumers").unwrap();
    let mut count = |condition: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {condition}");
        client.query_one(&sql, &[]).unwrap().get(0)
    };
    wait_until("a count waits", || count("wait_event_type = 'Lock' AND query LIKE '%consumer_lag%'") == 1);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        for path in ["/health", "/metrics", "/readyz", "/livez"] {
            api.agent.get(format!("{}{path}", api.url)).call().unwrap();
        }
    }
    assert_eq!(count("query LIKE '%consumer_lag%' AND pid <> pg_backend_pid()"), 1);
    kill(Pid::from_raw(api.server().pid().cast_signed()), Signal::SIGKILL).unwrap();
    wait_until("no statement is left", || {
        count("application_name = 'workflow-server' AND query NOT LIKE '%pg_stat_activity%'") == 0
    });
    lock.rollback().unwrap();
}

#[test]
fn livez_and_readyz_tell_the_process_from_its_servers() {
    let db = Db::new();
    let redis = xtask::stack::redis::Redis::start("http-live").unwrap();
    let (server, url) = serve(db.url(), &redis.url());
    let api = Api::new((server, url));
    wait_until("ready", || api.get("/readyz") == (200, serde_json::json!({"status": "ready", "waiting_for": []})));
    redis.stop().unwrap();
    wait_until("waiting for Redis", || {
        api.get("/readyz") == (503, serde_json::json!({"status": "waiting", "waiting_for": ["redis"]}))
    });
    assert_eq!(api.get("/livez"), (200, serde_json::json!({"status": "live"})));
    redis.start_again().unwrap();
    wait_until("ready again", || api.get("/readyz").0 == 200);
}

#[test]
fn anonymous_clients_learn_no_names_from_health() {
    let db = Db::new();
    let (host, _) = db.url().split_once('@').unwrap().1.split_once('/').unwrap();
    let url = format!("postgres://secret_role@{host}/secret_database");
    for (flags, token, is_told) in
        [(vec![], None, false), (vec!["--token", "t"], None, false), (vec!["--token", "t"], Some("t"), true)]
    {
        let api = Api::at(&url, &flags);
        let request = api.agent.get(format!("{}/health", api.url));
        let request = token
            .into_iter()
            .fold(request, |request, token| request.header("authorization", format!("Bearer {token}")));
        let mut response = request.call().unwrap();
        assert_eq!(response.status(), 503);
        let body = response.body_mut().read_to_string().unwrap();
        let names = ["secret_role", "secret_database", host].map(|name| body.contains(name));
        assert_eq!(names.contains(&true), is_told, "{body}");
        assert!(body.contains("DATABASE_URL") || body.contains("(28000)"), "{body}");
        api.server().wait_line("cannot use the database for /health", PATIENCE).unwrap();
    }
}

#[test]
fn lag_stays_in_metrics_while_it_cannot_be_counted() {
    let db = Db::new();
    let redis = xtask::stack::redis::Redis::start("http-lag").unwrap();
    let api = Api::start(&db, &redis);
    let lag = || {
        let text = api.agent.get(format!("{}/metrics", api.url)).call().unwrap().body_mut().read_to_string().unwrap();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        Some((value("workflow_relay_lag_seconds")?, value("workflow_relay_lag_age_seconds")?))
    };
    wait_until("the lag", || lag().is_some());
    let mut client = db.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE workflow.state_history").unwrap();
    wait_until("an old count", || lag().expect("the gauges stay").1 > 4.0);
    lock.rollback().unwrap();
    wait_until("a new count", || lag().expect("the gauges stay").1 < 2.0);
}
