//! The relay in unfavorable surroundings: rights, defaults of roles and databases, signals, few file descriptors.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_tests::*;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

use crate::extension::roles::member_of;

const TOKEN: &str = "token";

/// Starts a program that becomes `workflow-server serve` with these flags.
fn start(program: &Path, arguments: &[&str], database_url: &str, redis: &Redis, flags: &[&str]) -> (Server, String) {
    let redis_url = redis.url();
    let envs = [
        ("DATABASE_URL", database_url),
        ("REDIS_URL", redis_url.as_str()),
        ("WORKFLOW_LISTEN", "127.0.0.1:0"),
        ("WORKFLOW_TOKEN", TOKEN),
    ];
    let server =
        Server::start("surroundings", program, &[arguments, &["serve"], flags].concat(), &envs).expect("a server");
    let line = server.wait_line("listening on", PATIENCE).expect("it listens");
    (server, line.split_whitespace().next_back().unwrap_or_default().to_owned())
}

fn serve_with(database_url: &str, redis: &Redis) -> (Server, String) {
    start(&server_binary(), &[], database_url, redis, &[])
}

/// Starts the server from a shell, after this command.
fn serve_after(shell: &str, database_url: &str, redis: &Redis, flags: &[&str]) -> (Server, String) {
    let (script, server) = (format!("{shell}; exec \"$0\" \"$@\""), server_binary().display().to_string());
    start(Path::new("/bin/sh"), &["-c", &script, &server], database_url, redis, flags)
}

fn get(url: &str, path: &str) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.get(format!("{url}{path}")).header("Authorization", format!("Bearer {TOKEN}"));
    let mut response = request.call().expect("a response");
    (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
}

fn health(url: &str) -> (u16, Value) {
    let (status, body) = get(url, "/health");
    (status, serde_json::from_str(&body).expect("JSON"))
}

fn events_in(redis: &Redis) -> i64 {
    redis.command(&["XLEN", "workflow:stream"]).unwrap()
}

#[test]
fn relay_that_cannot_read_events_is_unhealthy() {
    let db = Db::new();
    let owner = &mut db.connect();
    let writer = member_of(&db, "workflow_writer");
    owner.batch_execute(&format!("ALTER ROLE {writer} SET default_transaction_read_only = on")).unwrap();
    for (role, reason, hint) in [
        (member_of(&db, "workflow_reader"), "permission denied", "Grant the role"),
        (writer.clone(), "read-only transaction", "default_transaction_read_only"),
    ] {
        let redis = Redis::start("relay-unable").unwrap();
        let (server, url) = serve_with(&db.url_as(&role), &redis);
        let mut body = Value::Null;
        wait_until("the reason in /health", || {
            let (status, found) = health(&url);
            body = found;
            status == 503 && body["errors"]["relay"].as_str().is_some_and(|text| text.contains(reason))
        });
        assert!(body["errors"]["relay"].as_str().unwrap().contains(hint), "{body}");
        assert_eq!((&body["database"], &body["relay"]["role"]), (&true.into(), &"starting".into()), "{body}");
        let metrics = get(&url, "/metrics").1;
        assert!(metrics.contains("workflow_relay_up 0.0\n"), "{metrics}");
        assert!(metrics.contains("\nworkflow_relay_lag_age_seconds "), "an alert needs it: {metrics}");
        assert_eq!(get(&url, "/livez").0, 200);
        let line = server.wait_line("cannot use PostgreSQL", PATIENCE).unwrap();
        assert!(line.contains(reason) && line.contains(hint), "{line}");
        assert_eq!(server.terminate().unwrap().code(), Some(0));
    }
    owner.batch_execute(&format!("ALTER ROLE {writer} RESET default_transaction_read_only")).unwrap();
    let redis = Redis::start("relay-able").unwrap();
    let (_server, url) = serve_with(&db.url_as(&writer), &redis);
    wait_until("health", || health(&url).0 == 200);
    wait_until("the gauge", || get(&url, "/metrics").1.contains("workflow_relay_up 1.0\n"));
}

#[test]
fn server_works_whatever_the_defaults_of_the_database_are() {
    let db = Db::new();
    let owner = &mut db.connect();
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = '200ms'",
        "lock_timeout = '1ms'",
        "standard_conforming_strings = off",
    ] {
        let sql = format!("SELECT format('ALTER DATABASE %I SET {}', current_database())", setting.replace('\'', "''"));
        let alter: String = owner.query_one(&sql, &[]).unwrap().get(0);
        owner.batch_execute(&alter).unwrap();
    }
    let redis = Redis::start("relay-defaults").unwrap();
    let (server, url) = serve_with(db.url(), &redis);
    server.wait_line("became leader", PATIENCE).unwrap();
    let client = &mut db.connect();
    client
        .batch_execute("SET standard_conforming_strings = on; SET statement_timeout = 0; SET lock_timeout = 0")
        .unwrap();
    client.batch_execute("SET default_transaction_isolation = 'read committed'").unwrap();
    create_tasks(client, 20);
    wait_until("the events", || events_in(&redis) == 21);
    wait_until("the counts are refreshed", || {
        let sql = "SELECT floor_id = workflow.last_event_id() FROM workflow.state_count_place";
        client.query_one(sql, &[]).unwrap().get(0)
    });
    // Longer than the time limit of the database: the relay waits that long for an event.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(health(&url).0, 200);
    let log = log_of(&server);
    assert!(!log.contains("cannot"), "{log}");
    let reset = "SELECT format('ALTER DATABASE %I RESET ALL', current_database())";
    let reset: String = client.query_one(reset, &[]).unwrap().get(0);
    client.batch_execute(&reset).unwrap();
}

#[test]
fn relay_stops_in_order_when_the_terminal_is_closed() {
    let db = Db::new();
    let redis = Redis::start("relay-hangup").unwrap();
    // The tests may run under nohup.
    let binary = server_binary().display().to_string();
    let (server, _) = start(Path::new("/usr/bin/env"), &["--default-signal=HUP", &binary], db.url(), &redis, &[]);
    server.wait_line("became leader", PATIENCE).unwrap();
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGHUP).unwrap();
    assert!(server.wait_ended(PATIENCE).unwrap());
    assert!(log_of(&server).contains("stopped"), "{}", log_of(&server));
    let released: bool = db
        .connect()
        .query_one(
            "SELECT lease_expires_at IS NULL OR lease_expires_at < clock_timestamp() FROM workflow.consumers",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(released, "the next relay need not wait");

    // nohup ignores the signal.
    let (server, url) = serve_after("trap '' HUP", db.url(), &redis, &[]);
    server.wait_line("became leader", PATIENCE).unwrap();
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGHUP).unwrap();
    create_task(&mut db.connect());
    wait_until("the events", || events_in(&redis) == 2);
    assert_eq!(health(&url).0, 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_reconnects_while_clients_want_all_descriptors() {
    let db = Db::new();
    let redis = Redis::start("relay-descriptors").unwrap();
    let (server, url) = serve_after("ulimit -n 100", db.url(), &redis, &["--clients", "500"]);
    server.wait_line("rather than 500: this process may open 100 files", PATIENCE).unwrap();
    server.wait_line("became leader", PATIENCE).unwrap();
    let address = url.trim_start_matches("http://");
    let followers: Vec<_> = (0..120)
        .filter_map(|_| {
            use std::io::Write;
            let mut stream = std::net::TcpStream::connect(address).ok()?;
            let head =
                format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
            stream.write_all(head.as_bytes()).ok()?;
            Some(stream)
        })
        .collect();
    redis.command::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
    create_tasks(&mut db.connect(), 10);
    wait_until("the events", || events_in(&redis) == 11);
    drop(followers);
    wait_until("health", || health(&url).0 == 200);
    assert!(log_of(&server).matches("cannot accept client connections").count() <= 1, "{}", log_of(&server));
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}
