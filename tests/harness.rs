//! What the tests share: databases with the extension, entities in a wanted state, and errors taken apart.

#[path = "chaos/lib.rs"]
pub mod chaos;

use pg_workflow_state_machine::State;
use postgres::{Client, NoTls};
use serde_json::Value;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;
use xtask::stack::postgres::{FAST, PRELOADED, Postgres};
use xtask::stack::server::Server;

/// A database with the extension, for one test. When it goes out of scope its history must agree with its rows.
pub struct Db {
    url: String,
    verified: bool,
    /// Its name, where it is of the shared cluster: it is dropped then, so that its notifier's place is free for others.
    shared: Option<String>,
}

impl Db {
    /// A new database in the cluster that the tests share.
    pub fn new() -> Db {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        shared_cluster().psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE fresh")).expect("a new database");
        let url = shared_cluster().url(&name);
        Db { url, verified: true, shared: Some(name) }
    }

    /// An existing database with the extension.
    pub fn at(url: String) -> Db {
        Db { url, verified: true, shared: None }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.url, NoTls).expect("a connection")
    }

    /// A connection as another role than the superuser.
    pub fn connect_as(&self, role: &str) -> Client {
        let mut client = self.connect();
        client.batch_execute(&format!("SET SESSION AUTHORIZATION {role}")).expect("the role exists");
        client
    }

    /// For tests that break history on purpose.
    pub fn without_verification(mut self) -> Db {
        self.verified = false;
        self
    }

    /// What verify() finds.
    pub fn problems(&self) -> Vec<String> {
        let rows = self.connect().query("SELECT problem, detail FROM workflow.verify()", &[]).expect("verify() runs");
        rows.iter().map(|row| format!("{}: {}", row.get::<_, String>(0), row.get::<_, Value>(1))).collect()
    }
}

impl Default for Db {
    fn default() -> Db {
        Db::new()
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.verified && !std::thread::panicking() {
            assert_eq!(self.problems(), [""; 0], "history and rows disagree");
            self.connect().batch_execute("SELECT workflow.fold_state_counts()").expect("counts can be folded");
            assert_eq!(self.problems(), [""; 0], "the counts disagree once they are folded");
        }
        if let Some(name) = self.shared.take().filter(|_| !std::thread::panicking()) {
            shared_cluster()
                .psql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"))
                .expect("it can be dropped");
        }
    }
}

fn shared_cluster() -> &'static Postgres {
    static CLUSTER: OnceLock<Postgres> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        // A notifier for each test that runs.
        let settings = [("max_connections", "300"), ("max_worker_processes", "50"), PRELOADED];
        let cluster = Postgres::start("tests", &[FAST, &settings].concat()).expect("a cluster");
        cluster.psql("postgres", "CREATE DATABASE fresh").expect("a template");
        cluster.psql("fresh", "CREATE EXTENSION pg_workflow").expect("the extension");
        // From here on they are kept, so that verify() has something to compare.
        cluster.psql("fresh", "SELECT workflow.fold_state_counts()").expect("counts to begin with");
        cluster
    })
}

/// A cluster of the test's own with these settings, to be stopped and killed, and a database with the extension.
pub fn own_cluster(name: &str, settings: &[(&str, &str)]) -> (Postgres, Db) {
    let cluster = Postgres::start(name, &[FAST, settings].concat()).expect("a cluster");
    cluster.psql("postgres", "CREATE DATABASE workflow").expect("a database");
    cluster.psql("workflow", "CREATE EXTENSION pg_workflow").expect("the extension");
    let db = Db::at(cluster.url("workflow"));
    (cluster, db)
}

/// A DAG with one run.
pub fn create_run(client: &mut Client) -> (Uuid, Uuid) {
    let name = Uuid::new_v4().to_string();
    let dag: Uuid = client.query_one("SELECT workflow.create_dag($1)", &[&name]).expect("a dag").get(0);
    let run: Uuid = client.query_one("SELECT workflow.create_dag_run($1)", &[&dag]).expect("a run").get(0);
    (dag, run)
}

/// Tasks of a new run, in their order.
pub fn create_tasks(client: &mut Client, count: usize) -> Vec<Uuid> {
    let (_, run) = create_run(client);
    let names: Vec<String> = (0..count).map(|i| format!("task_{i}")).collect();
    let rows = client.query("SELECT id FROM workflow.create_task_instances($1, $2)", &[&run, &names]).expect("tasks");
    rows.iter().map(|row| row.get(0)).collect()
}

pub fn create_task(client: &mut Client) -> Uuid {
    create_tasks(client, 1)[0]
}

/// A new entity in a state, brought there by legal moves.
pub fn create_in_state(client: &mut Client, entity_type: &str, state: State) -> Uuid {
    let id = if entity_type == "dag_run" { create_run(client).1 } else { create_task(client) };
    for pair in path_to(state).windows(2) {
        transition(client, entity_type, id, pair[0], pair[1]).expect("a legal move");
    }
    id
}

/// The shortest way from queued to a state.
fn path_to(goal: State) -> Vec<State> {
    let mut paths = VecDeque::from([vec![State::Queued]]);
    while let Some(path) = paths.pop_front() {
        let last = path[path.len() - 1];
        if last == goal {
            return path;
        }
        paths.extend(last.next_states().iter().map(|next| [&path[..], &[*next]].concat()));
    }
    unreachable!("every state can be reached")
}

pub fn transition(
    client: &mut Client,
    entity_type: &str,
    id: Uuid,
    from: State,
    to: State,
) -> Result<i64, postgres::Error> {
    let sql = "SELECT workflow.transition($1, $2, $3, $4)";
    Ok(client.query_one(sql, &[&entity_type, &id, &from.as_str(), &to.as_str()])?.get(0))
}

pub fn table(entity_type: &str) -> &'static str {
    if entity_type == "dag_run" { "workflow.dag_runs" } else { "workflow.task_instances" }
}

/// The state and version of an entity.
pub fn state_of(client: &mut Client, entity_type: &str, id: Uuid) -> (String, i64) {
    let sql = format!("SELECT state, version FROM {} WHERE id = $1", table(entity_type));
    let row = client.query_one(&sql, &[&id]).expect("the entity");
    (row.get(0), row.get(1))
}

/// How many history rows an entity has.
pub fn history_len(client: &mut Client, id: Uuid) -> i64 {
    let sql = "SELECT count(*) FROM workflow.state_history WHERE entity_id = $1";
    client.query_one(sql, &[&id]).expect("a count").get(0)
}

/// Has all that there is have happened 40 days ago.
pub fn age(client: &mut Client) {
    client
        .batch_execute(
            "SET session_replication_role = replica;
             UPDATE workflow.dag_runs SET created_at = created_at - interval '40 days', updated_at = updated_at - interval '40 days';
             UPDATE workflow.task_instances SET created_at = created_at - interval '40 days', updated_at = updated_at - interval '40 days';
             UPDATE workflow.state_history SET changed_at = changed_at - interval '40 days';
             RESET session_replication_role",
        )
        .expect("its owner can");
}

/// Has what is written from now on go into the next partitions of the history and the logs, as a new month does.
pub fn next_partition(client: &mut Client) {
    let current = "SELECT workflow.current_partition('state_history')";
    let before: i64 = client.query_one(current, &[]).expect("a number").get(0);
    // The present one began in another month.
    create_task(client);
    let first = "UPDATE workflow.state_history SET changed_at = changed_at - interval '40 days' WHERE id = (
        SELECT min(id) FROM workflow.state_history WHERE id >= $1 * workflow.partition_size())";
    client.execute(first, &[&before]).expect("its owner can");
    open_partitions(client);
    assert_eq!(client.query_one(current, &[]).expect("a number").get::<_, i64>(0), before + 1);
}

/// Takes all steps to the next partitions that are due.
pub fn open_partitions(client: &mut Client) {
    wait_until("all steps are taken", || {
        let sql = "SELECT outcome FROM workflow.open_partitions()";
        client.query(sql, &[]).expect("open_partitions() runs").is_empty()
    });
}

/// An error as a driver sees it.
#[derive(Debug)]
pub struct Failure {
    pub sqlstate: String,
    pub message: String,
    pub detail: Value,
    pub hint: String,
}

/// The failure that a statement must have ended in.
pub fn failure<T>(result: Result<T, postgres::Error>) -> Failure {
    let error = result.err().expect("the statement must fail");
    let error = error.as_db_error().unwrap_or_else(|| panic!("not an error of the database: {error}"));
    Failure {
        sqlstate: error.code().code().to_owned(),
        message: error.message().to_owned(),
        detail: error.detail().map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_else(|_| text.into())),
        hint: error.hint().unwrap_or_default().to_owned(),
    }
}

/// A `workflow-server` to run: the one that `cargo xtask test` built, or the one beside the test.
pub fn server_binary() -> PathBuf {
    match std::env::var_os("WORKFLOW_SERVER_BIN") {
        Some(path) => path.into(),
        None => xtask::build::server_binary().expect("workflow-server, built by `cargo xtask test`"),
    }
}

/// Starts `workflow-server serve` on a free port, and waits until it listens; returns its URL too.
pub fn serve(database_url: &str, redis_url: &str) -> (Server, String) {
    Server::serve("serve", &server_binary(), database_url, redis_url).expect("the server starts and listens")
}

/// All that a server has printed.
pub fn log_of(server: &Server) -> String {
    std::fs::read_to_string(server.log()).expect("a log")
}

/// The path of one of the real traces; None, with a message, where the folder is missing.
pub fn real_trace(name: &str) -> Option<PathBuf> {
    let path = xtask::workspace::root().join("../shared/traces").join(name);
    if !path.exists() {
        eprintln!("skipped: there is no {}", path.display());
        return None;
    }
    Some(path)
}

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds, for what sends no event.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything that was published in Redis while this lives, through any number of restarts.
pub struct Subscriber {
    events: Arc<Mutex<Vec<Value>>>,
    /// How often it has subscribed.
    subscriptions: Arc<AtomicU32>,
}

impl Subscriber {
    pub fn start(redis_url: &str) -> Subscriber {
        let (events, subscriptions) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU32::new(0)));
        let subscriber = Subscriber { events: events.clone(), subscriptions: subscriptions.clone() };
        let client = redis::Client::open(redis_url).expect("a Redis URL");
        std::thread::spawn(move || {
            // Until the test process ends.
            loop {
                let _: redis::RedisResult<()> = follow(&client, &events, &subscriptions);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        subscriber.wait_subscribed(1);
        subscriber
    }

    pub fn wait_subscribed(&self, times: u32) {
        wait_until("a subscription", || self.subscriptions.load(Ordering::Acquire) >= times);
    }

    /// Waits until everything that Redis has taken so far has arrived: a message of our own comes after it.
    pub fn catch_up(&self, redis_url: &str) {
        let marker = Uuid::new_v4().to_string();
        let payload = serde_json::json!({ "marker": marker }).to_string();
        let client = redis::Client::open(redis_url).expect("a Redis URL");
        let mut connection = client.get_connection().expect("a connection");
        redis::Commands::publish::<_, _, ()>(&mut connection, "workflow:events", payload).expect("Redis takes it");
        wait_until("the marker", || self.events().iter().rev().any(|event| event["marker"] == marker.as_str()));
    }

    pub fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn len(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn follow(client: &redis::Client, events: &Mutex<Vec<Value>>, subscriptions: &AtomicU32) -> redis::RedisResult<()> {
    let mut connection = client.get_connection()?;
    let mut channel = connection.as_pubsub();
    channel.subscribe("workflow:events")?;
    subscriptions.fetch_add(1, Ordering::Release);
    loop {
        let payload: String = channel.get_message()?.get_payload()?;
        let event = serde_json::from_str(&payload).expect("an event is JSON");
        events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}
