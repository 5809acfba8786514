//! Redis in all setups: users, TLS, Cluster, Sentinel, Unix socket, full memory, and replica.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_tests::*;
use serde_json::Value;
use std::collections::HashMap;
use xtask::stack::redis::Redis;
use xtask::stack::redis_cluster::RedisCluster;
use xtask::stack::redis_sentinel::RedisSentinel;
use xtask::stack::scratch::Scratch;
use xtask::stack::server::Server;

/// The relay's rights in Redis, as the documents list them.
const RELAY_MAY: &[&str] = &[
    "~workflow:*",
    "resetchannels",
    "&workflow:*",
    "+ping",
    "+eval",
    "+exists",
    "+xinfo|stream",
    "+xadd",
    "+xrange",
    "+xlen",
    "+xtrim",
    "+publish",
    "+cluster|slots",
];
/// In a URL, everything in it but the letters must be percent-encoded.
const PASSWORD: &str = "p@ss:w/rd,#?%";
const PASSWORD_IN_URL: &str = "p%40ss%3Aw%2Frd%2C%23%3F%25";

/// Starts a server as [`serve`] does, with more environment variables.
fn serve_with(db: &Db, redis_url: &str, more: &[(&str, &str)]) -> (Server, String) {
    let envs = [("DATABASE_URL", db.url()), ("REDIS_URL", redis_url), ("WORKFLOW_LISTEN", "127.0.0.1:0")];
    let server = Server::start("redis", &server_binary(), &["serve"], &[&envs, more].concat()).expect("a server");
    let line = server.wait_line("listening on", PATIENCE).expect("it listens");
    let url = line.split_whitespace().next_back().unwrap_or_default().to_owned();
    (server, url)
}

fn health(url: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.get(format!("{url}/health")).call().expect("an answer");
    (answer.status().as_u16(), answer.body_mut().read_json().expect("JSON"))
}

fn signal(server: &Server, signal: Signal) {
    kill(Pid::from_raw(server.pid().cast_signed()), signal).expect("it runs");
}

/// Creates and moves tasks, and waits until each has three events in the order of its versions.
fn assert_events_arrive(db: &Db, received: impl Fn() -> Vec<Value>) {
    let client = &mut db.connect();
    // A new consumer starts with later commits.
    wait_until("the relay's consumer", || client.query_opt("SELECT FROM workflow.consumers", &[]).unwrap().is_some());
    let tasks = create_tasks(client, 3);
    for (from, to) in [("queued", "running"), ("running", "success")] {
        let sql = "SELECT * FROM workflow.transition_many('task_instance', $1, $2, $3)";
        client.query(sql, &[&tasks, &from, &to]).expect("allowed transitions");
    }
    let versions = || {
        let mut versions: HashMap<String, Vec<i64>> = HashMap::new();
        for event in received() {
            let (Some(id), Some(version)) = (event["entity_id"].as_str(), event["version"].as_i64()) else { continue };
            let seen = versions.entry(id.to_owned()).or_default();
            // At least once: after an outage, some events are redelivered.
            if seen.last().is_none_or(|last| *last < version) {
                seen.push(version);
            }
        }
        versions
    };
    wait_until("the events of each task", || {
        let versions = versions();
        tasks.iter().all(|task| versions.get(&task.to_string()).is_some_and(|seen| seen.last() == Some(&3)))
    });
    let versions = versions();
    assert!(tasks.iter().all(|task| versions[&task.to_string()] == [1, 2, 3]), "{versions:?}");
}

/// Returns the commands, keys and channels that Redis denied.
fn denied(redis: &Redis) -> Vec<String> {
    let log: Vec<HashMap<String, redis::Value>> = redis.command(&["ACL", "LOG"]).expect("a log");
    let objects = log.into_iter().map(|mut entry| redis::from_redis_value(entry.remove("object").expect("an object")));
    let objects: Result<Vec<String>, _> = objects.collect();
    // In a cluster, the driver always tries to set its name, and continues if that is denied.
    objects.expect("names").into_iter().filter(|object| object != "client|setinfo").collect()
}

/// Starts a Redis with a TLS port, a plain port, and a user with the relay's rights.
fn with_tls(certificates: &Certificates) -> (Redis, u16) {
    let port = xtask::stack::port::free().expect("a free port");
    let secret = format!(">{PASSWORD}");
    let files = ["--tls-ca-cert-file", certificates.ca(), "--tls-cert-file", certificates.server().0];
    let tls = ["--tls-port", &port.to_string(), "--tls-key-file", certificates.server().1];
    let user = [&["--user", "relay", "on", &secret][..], RELAY_MAY].concat();
    (Redis::start_with("redis-tls", &[&files[..], &tls, &user].concat()).expect("a Redis with TLS"), port)
}

#[test]
fn relay_works_over_tls_with_private_ca_and_few_rights() {
    let db = Db::new();
    let certificates = Certificates::create();
    let (redis, port) = with_tls(&certificates);
    let subscriber = Subscriber::start(&redis.url());
    let (cert, key) = certificates.client();
    let envs = [("WORKFLOW_REDIS_CA", certificates.ca()), ("WORKFLOW_REDIS_CERT", cert), ("WORKFLOW_REDIS_KEY", key)];
    let (server, url) = serve_with(&db, &format!("rediss://relay:{PASSWORD_IN_URL}@127.0.0.1:{port}"), &envs);
    assert_events_arrive(&db, || subscriber.events());
    assert_eq!(health(&url).0, 200);
    assert_eq!(denied(&redis), [""; 0]);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn connection_errors_are_reported_without_secrets() {
    let db = Db::new();
    let certificates = Certificates::create();
    let (redis, port) = with_tls(&certificates);
    let plain = format!("127.0.0.1:{}", redis.port());
    let (ca, (cert, key)) = (certificates.ca(), certificates.client());
    let trusting = [("WORKFLOW_REDIS_CA", ca)];
    let known = [("WORKFLOW_REDIS_CA", ca), ("WORKFLOW_REDIS_CERT", cert), ("WORKFLOW_REDIS_KEY", key)];
    let none: &[(&str, &str)] = &[];
    let cases = [
        (format!("redis://relay:s3cret@{plain}"), none, "Check user and password"),
        (format!("rediss://relay:s3cret@127.0.0.1:{port}"), &known[..], "Check user and password"),
        (format!("rediss://relay:s3cret@127.0.0.1:{port}"), none, "--redis-ca"),
        (format!("rediss://relay:s3cret@127.0.0.1:{port}"), &trusting[..], "--redis-cert"),
        (format!("rediss://relay:s3cret@{plain}"), &trusting[..], "if and only if it expects TLS"),
    ];
    for (redis_url, envs, hint) in cases {
        let (server, url) = serve_with(&db, &redis_url, envs);
        // Not always at once: the driver may not notice that Redis closes a connection.
        let line = server.wait_line(hint, PATIENCE).unwrap();
        assert!(line.contains("cannot "), "{redis_url}: {line}");
        let mut body = Value::Null;
        wait_until("the reason in /health", || {
            let (status, said) = health(&url);
            assert_eq!(status, 503, "{said}");
            body = said;
            body["errors"]["redis"].as_str().is_some_and(|reason| reason.contains(hint))
        });
        let log = log_of(&server);
        assert!(!log.contains("s3cret") && !body.to_string().contains("s3cret"), "{log}\n{body}");
        assert_eq!(server.terminate().unwrap().code(), Some(0));
    }
}

#[test]
fn invalid_redis_url_is_rejected_without_its_password() {
    let db = Db::new();
    let url = "redis://relay:s3cret@host:port";
    let server =
        Server::start("redis", &server_binary(), &["serve", "--redis-url", url, "--database-url", db.url()], &[]);
    let server = server.unwrap();
    assert!(server.wait_ended(PATIENCE).unwrap());
    let log = log_of(&server);
    assert!(log.contains("expected redis://") && !log.contains("s3cret"), "{log}");
    assert_eq!(server.terminate().unwrap().code(), Some(2));
}

#[test]
fn redis_cluster_delivers_events_to_subscribers_of_all_nodes() {
    let db = Db::new();
    let cluster = RedisCluster::start("redis-cluster").unwrap();
    let secret = format!(">{PASSWORD}");
    for node in cluster.nodes() {
        let user = [&["ACL", "SETUSER", "relay", "on", &secret][..], RELAY_MAY].concat();
        node.command::<()>(&user).unwrap();
    }
    let owner = cluster.owner("workflow:events").unwrap().port();
    // The relay has the address of one node only, which is neither the channel's nor the subscriber's.
    let others: Vec<&Redis> = cluster.nodes().iter().filter(|node| node.port() != owner).collect();
    let subscriber = Subscriber::start(&others[0].url());
    let redis_url = format!("redis://relay:{PASSWORD_IN_URL}@127.0.0.1:{}", others[1].port());
    let (server, url) = serve_with(&db, &redis_url, &[]);
    assert_events_arrive(&db, || subscriber.events());
    assert_eq!(health(&url).0, 200);
    for node in cluster.nodes() {
        assert_eq!(denied(node), [""; 0]);
    }
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn one_reachable_redis_address_is_enough() {
    let db = Db::new();
    let cluster = RedisCluster::start("redis-addresses").unwrap();
    let subscriber = Subscriber::start(&cluster.nodes()[1].url());
    let unused = xtask::stack::port::free().unwrap();
    let redis_url = format!("redis://127.0.0.1:{unused},{}", cluster.url());
    let (server, url) = serve_with(&db, &redis_url, &[]);
    assert_events_arrive(&db, || subscriber.events());
    assert_eq!(health(&url).0, 200);
    assert!(!log_of(&server).contains("cannot "), "{}", log_of(&server));
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_follows_master_behind_redis_sentinel() {
    let db = Db::new();
    let sentinel = RedisSentinel::start("redis-sentinel", "secret").unwrap();
    let [first, second] = sentinel.servers();
    // The sentinel has no password, so it rejects the one that is meant for the servers.
    let redis_url = sentinel.url().replace("redis://", "redis://:secret@");
    let (server, url) = serve_with(&db, &redis_url, &[]);
    // Messages that the master publishes reach subscribers of its replica.
    let on_second = Subscriber::start(&sentinel.url_of(second));
    assert_events_arrive(&db, || on_second.events());

    // A promotion ends all connections. Stop the relay until the subscription is back. The old master keeps running, so
    // only the sentinel can tell the relay to leave it.
    signal(&server, Signal::SIGSTOP);
    sentinel.fail_over().unwrap();
    on_second.wait_subscribed(2);
    signal(&server, Signal::SIGCONT);
    server.wait_line("the master is now", PATIENCE).unwrap();
    assert_events_arrive(&db, || on_second.events());

    let on_first = Subscriber::start(&sentinel.url_of(first));
    signal(&server, Signal::SIGSTOP);
    second.kill().unwrap();
    wait_until("the promotion", || sentinel.master_port().unwrap() == first.port());
    on_first.wait_subscribed(2);
    signal(&server, Signal::SIGCONT);
    assert_events_arrive(&db, || on_first.events());
    wait_until("health", || health(&url).0 == 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn unknown_sentinel_master_error_lists_known_masters() {
    let db = Db::new();
    let sentinel = RedisSentinel::start("redis-unknown", "secret").unwrap();
    let redis_url = sentinel.url().replace("redis://", "redis://:secret@");
    let (server, _) = serve_with(&db, &redis_url, &[("WORKFLOW_REDIS_SENTINEL_MASTER", "another")]);
    let line = server.wait_line("cannot use Redis", PATIENCE).unwrap();
    assert!(line.contains("only: workflow") && line.contains("--redis-sentinel-master"), "{line}");
    assert_eq!(server.terminate().unwrap().code(), Some(0));
    let (server, url) = serve_with(&db, &redis_url, &[("WORKFLOW_REDIS_SENTINEL_MASTER", "workflow")]);
    assert_eq!(health(&url).0, 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_works_over_unix_socket() {
    let db = Db::new();
    let folder = Scratch::short().unwrap();
    let socket = folder.path().join("redis.sock").display().to_string();
    let redis = Redis::start_with("redis-socket", &["--unixsocket", &socket]).unwrap();
    let subscriber = Subscriber::start(&redis.url());
    let (server, url) = serve_with(&db, &format!("redis+unix://{socket}"), &[]);
    assert_events_arrive(&db, || subscriber.events());
    assert_eq!(health(&url).0, 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_waits_for_redis_replica_to_become_master() {
    let db = Db::new();
    let master = Redis::start("redis-master").unwrap();
    let redis = Redis::start_with("redis-replica", &["--replicaof", "127.0.0.1", &master.port().to_string()]).unwrap();
    let subscriber = Subscriber::start(&redis.url());
    let (server, url) = serve_with(&db, &redis.url(), &[]);
    let line = server.wait_line("cannot use Redis", PATIENCE).unwrap();
    assert!(line.contains("is a replica") && line.contains("Name the master"), "{line}");
    wait_until("the next check", || health(&url).0 == 503);
    redis.command::<()>(&["REPLICAOF", "NO", "ONE"]).unwrap();
    assert_events_arrive(&db, || subscriber.events());
    wait_until("the next check", || health(&url).0 == 200);
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

/// Reads the events in the stream.
fn stream(redis: &Redis) -> Vec<Value> {
    let entries: Vec<(String, HashMap<String, String>)> =
        redis.command(&["XRANGE", "workflow:stream", "-", "+"]).expect("a stream");
    entries.iter().map(|(_, fields)| serde_json::from_str(&fields["event"]).expect("an event is JSON")).collect()
}

#[test]
fn relay_waits_while_redis_is_full() {
    let db = Db::new();
    let redis = Redis::start_with("redis-full", &["--maxmemory-policy", "noeviction"]).unwrap();
    let (server, _) = serve_with(&db, &redis.url(), &[]);
    assert_events_arrive(&db, || stream(&redis));
    // The limit is below the used memory, so Redis rejects writes.
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    std::thread::scope(|scope| {
        let arriving = scope.spawn(|| assert_events_arrive(&db, || stream(&redis)));
        let line = server.wait_line("cannot use Redis", PATIENCE).unwrap();
        assert!(line.contains("OOM") && line.contains("raise its maxmemory"), "{line}");
        redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
        arriving.join().unwrap();
    });
    assert_eq!(log_of(&server).matches("cannot use Redis").count(), 1, "logged once:\n{}", log_of(&server));
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}

#[test]
fn relay_waits_while_redis_master_is_a_replica() {
    let db = Db::new();
    let redis = Redis::start("redis-demoted").unwrap();
    let (server, url) = serve_with(&db, &redis.url(), &[]);
    assert_events_arrive(&db, || stream(&redis));
    // Its master does not exist: it keeps its data and rejects writes.
    let unused = xtask::stack::port::free().unwrap().to_string();
    redis.command::<()>(&["REPLICAOF", "127.0.0.1", &unused]).unwrap();
    std::thread::scope(|scope| {
        let arriving = scope.spawn(|| assert_events_arrive(&db, || stream(&redis)));
        let line = server.wait_line("cannot use Redis", PATIENCE).unwrap();
        assert!(line.contains("READONLY") && line.contains("Name the master"), "{line}");
        assert_eq!(health(&url).0, 503);
        redis.command::<()>(&["REPLICAOF", "NO", "ONE"]).unwrap();
        arriving.join().unwrap();
    });
    assert_eq!(log_of(&server).matches("cannot use Redis").count(), 1, "logged once:\n{}", log_of(&server));
    assert_eq!(server.terminate().unwrap().code(), Some(0));
}
