//! A copy by logical replication takes over, by the commands of the page that describes it.

use fallible_iterator::FallibleIterator;
use pg_workflow_tests::*;
use postgres::Client;
use std::collections::{BTreeSet, HashMap};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use xtask::stack::postgres::{PRELOADED, Postgres};
use xtask::stack::process::clean_environment;
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

const SETTINGS: [(&str, &str); 3] = [PRELOADED, ("wal_level", "logical"), ("max_replication_slots", "20")];

/// The two servers of the page.
struct Upgrade {
    old: Db,
    new: Db,
    _old_cluster: Postgres,
    new_cluster: Postgres,
    page: String,
}

impl Upgrade {
    fn start() -> Upgrade {
        let (_old_cluster, old) = own_cluster("old", &SETTINGS);
        let new_cluster = Postgres::start("new", &[&[("fsync", "off")], &SETTINGS[..]].concat()).unwrap();
        // The copy is verified once it is one.
        let new = Db::at(new_cluster.create_database("workflow").unwrap());
        let page = xtask::workspace::root().join("docs/operations/logical-replication.md");
        Upgrade { old, new, _old_cluster, new_cluster, page: std::fs::read_to_string(page).unwrap() }
    }

    /// Runs the commands of a section of the page.
    fn run(&self, heading: &str) {
        let section = self.page.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
        let commands: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        assert!(commands.len() > 2, "{heading}");
        let mut sh = Command::new("bash");
        clean_environment(&mut sh);
        let path = format!("{}:{}", self.new_cluster.install().bindir.display(), std::env::var("PATH").unwrap());
        sh.env("PATH", path).env("OLD_URL", self.old.url()).env("NEW_URL", self.new.url());
        sh.args(["-eux", "-o", "pipefail", "-c", &commands.join("\n")]);
        let output = sh.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        assert!(
            output.status.success(),
            "{heading}: {}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// What the readers of a feed have received, by their names.
#[derive(Default)]
struct Received(HashMap<&'static str, Vec<i64>>);

impl Received {
    /// Reads and acknowledges at most so many events of a consumer.
    fn read(&mut self, client: &mut Client, consumer: &'static str, max: i32) -> usize {
        let sql = "SELECT id FROM workflow.read_events($1, $2)";
        let ids: Vec<i64> = client.query(sql, &[&consumer, &max]).unwrap().iter().map(|row| row.get(0)).collect();
        if let Some(last) = ids.last() {
            client.query_one("SELECT workflow.ack_events($1, $2)", &[&consumer, last]).unwrap();
        }
        self.0.entry(consumer).or_default().extend(&ids);
        ids.len()
    }

    /// Reads all events of a consumer.
    fn drain(&mut self, client: &mut Client, consumer: &'static str) {
        while self.read(client, consumer, 1000) > 0 {}
    }

    /// Follows the feed to its end, and returns the position.
    fn follow(&mut self, client: &mut Client, mut position: String) -> String {
        loop {
            let sql = "SELECT id, position FROM workflow.follow_events($1)";
            let rows = client.query(sql, &[&position]).unwrap();
            let Some(last) = rows.last() else { return position };
            position = last.get(1);
            self.0.entry("follower").or_default().extend(rows.iter().map(|row| row.get::<_, i64>(0)));
        }
    }
}

fn history(client: &mut Client) -> Vec<i64> {
    let sql = "SELECT id FROM workflow.state_history ORDER BY id";
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn relay(db: &Db, redis: &Redis, adopt: &str) -> Server {
    let url = redis.url();
    let envs =
        [("DATABASE_URL", db.url()), ("REDIS_URL", &url), ("WORKFLOW_NO_HTTP", "1"), ("WORKFLOW_ADOPT_STREAM", adopt)];
    let server = Server::start("relay", &server_binary(), &["serve"], &envs).expect("a relay");
    server.wait_line("became leader", PATIENCE).unwrap();
    server
}

/// The events in the stream of the relay.
fn stream(redis: &Redis) -> Vec<i64> {
    let entries: Vec<(String, Vec<String>)> = redis.command(&["XRANGE", "workflow:stream", "-", "+"]).unwrap();
    let id = |(id, _): (String, Vec<String>)| id.split_once('-').unwrap().1.parse().unwrap();
    let mut ids: Vec<i64> = entries.into_iter().map(id).collect();
    ids.sort_unstable();
    ids
}

/// Moves tasks and deletes some, in transactions that overlap, every 50 ms until the sender is dropped.
fn write(db: &Db, stop: &Receiver<()>) {
    let (client, other) = (&mut db.connect(), &mut db.connect());
    while stop.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
        let mut open = other.transaction().unwrap();
        let late = create_tasks_in(&mut open);
        let tasks = create_tasks(client, 3);
        start_task(client, tasks[0]);
        client.execute("SELECT workflow.append_task_log($1, 'a line')", &[&tasks[0]]).unwrap();
        client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&tasks[1]]).unwrap();
        open.commit().unwrap();
        start_task(client, late);
    }
}

fn create_tasks_in(transaction: &mut postgres::Transaction<'_>) -> uuid::Uuid {
    let sql = "SELECT t.id FROM workflow.create_dag(gen_random_uuid()::text) AS d (id),
                   workflow.create_dag_run(d.id) AS r (id), workflow.create_task_instances(r.id, '{late}') AS t";
    transaction.query_one(sql, &[]).unwrap().get(0)
}

#[test]
fn switch_loses_and_doubles_no_event() {
    let upgrade = Upgrade::start();
    let (old, new) = (&upgrade.old, &upgrade.new);
    let client = &mut old.connect();
    let redis = Redis::start("replication").unwrap();
    let mut received = Received::default();
    client
        .batch_execute(
            "SELECT workflow.create_consumer('drained', true), workflow.create_consumer('half', true),
             workflow.create_consumer('relay', true)",
        )
        .unwrap();
    let position: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    let early = position.clone();
    create_finished_tasks(client, 3);
    next_partition(client);
    next_partition(client);
    // So that the new server has not assigned these IDs before the switch.
    client
        .batch_execute("DO $$ BEGIN FOR n IN 1..1000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        .unwrap();
    let leader = relay(old, &redis, "");
    let (sender, stop) = channel();
    let position = std::thread::scope(|scope| {
        let writer = scope.spawn(move || write(old, &stop));
        upgrade.run("Copy");
        received.drain(client, "drained");
        drop(sender);
        writer.join().unwrap();
        received.drain(client, "drained");
        received.read(client, "half", 10);
        wait_until("the relay", || stream(&redis).len() >= history(client).len());
        drop(leader);
        received.follow(client, position)
    });

    // While it is a subscriber.
    let mut listener = new.connect();
    listener.batch_execute("LISTEN workflow_events").unwrap();
    let copy = &mut new.connect();
    // As in a subscriber that is made from a copy of the files: it has a mark, and its consumers bear it.
    let own = "SELECT workflow.draw_mark();
               INSERT INTO workflow.consumers (name, floor_id, system_identifier) VALUES ('own', 0, 0);
               -- It has read its window.
               INSERT INTO workflow.consumers
                   (name, snapshot, next_transaction_id, floor_id,
                    window_snapshot, window_next_transaction_id, window_floor_id, window_ceiling_id, system_identifier)
               VALUES ('idle', '3:3:', '3', 0, '3:3:', '3', 0, 0, 0);
               UPDATE workflow.consumers SET system_identifier = workflow.origin() WHERE name IN ('own', 'idle')";
    copy.batch_execute(own).unwrap();
    let is_foreign =
        "SELECT workflow.is_foreign(workflow.position_of(c)) FROM workflow.consumers AS c WHERE name = 'own'";
    assert!(!copy.query_one(is_foreign, &[]).unwrap().get::<_, bool>(0));
    for refused in [
        "SELECT workflow.create_consumer('local')",
        "SELECT workflow.current_position()",
        "SELECT * FROM workflow.read_events('half')",
        &format!("SELECT * FROM workflow.follow_events('{early}')"),
        &format!("SELECT * FROM workflow.follow_events('{position}')"),
        "SELECT * FROM workflow.read_events('own')",
        "CALL workflow.wait_for_events('own', interval '0')",
        "CALL workflow.wait_for_events('idle', interval '0')",
        "CALL workflow.wait_for_events('half', interval '0')",
        &format!("CALL workflow.wait_for_events_after('{position}', interval '0')"),
        "SELECT workflow.finish_copy()",
    ] {
        let refused = failure(copy.batch_execute(refused));
        assert_eq!((&*refused.sqlstate, &refused.detail["subscriptions"][0]), ("55000", &"upgrade".into()));
    }
    assert!(!copy.query_one("SELECT workflow.fold_state_counts()", &[]).unwrap().get::<_, bool>(0));

    upgrade.run("Switch");
    assert_eq!(history(copy), history(client));
    assert_eq!(new.problems(), [""; 0]);
    let copied = history(copy);
    // As the page of the relay says.
    let entries: Vec<(String, HashMap<String, String>)> =
        redis.command(&["XREVRANGE", "workflow:stream", "+", "-", "COUNT", "1"]).unwrap();
    let _relay = relay(new, &redis, &entries[0].1["source"]);
    resume(&upgrade, copied.len(), &mut received, position);
    let all = history(copy);
    for (reader, mut ids) in received.0 {
        ids.sort_unstable();
        assert_eq!(ids, all, "{reader} gets each event once");
    }
    wait_until("the relay", || stream(&redis).len() >= all.len());
    assert_eq!(stream(&redis), all, "the stream has each event once");
    assert_eq!(heard_until(&mut listener, all[all.len() - 1]), all[copied.len()..], "only what was written here");
}

/// The ids of the events in the notifications up to one event.
fn heard_until(listener: &mut Client, last: i64) -> Vec<i64> {
    let mut ids = Vec::new();
    let mut notifications = listener.notifications();
    let mut heard = notifications.timeout_iter(PATIENCE);
    while ids.last() != Some(&last) {
        let notification = heard.next().unwrap().unwrap_or_else(|| panic!("event {last} was not heard, but {ids:?}"));
        let event: serde_json::Value = serde_json::from_str(notification.payload()).expect("JSON");
        ids.push(event["id"].as_i64().expect("an id"));
    }
    ids
}

/// Works on the new server while the IDs of its transactions run through those of the copied events: in each step, such
/// an ID is that of a transaction in progress while the readers read.
fn resume(upgrade: &Upgrade, copied: usize, received: &mut Received, mut position: String) {
    let (client, holder) = (&mut upgrade.new.connect(), &mut upgrade.new.connect());
    let sql = "SELECT transaction_id::text::bigint FROM workflow.state_history ORDER BY id LIMIT $1";
    let rows = client.query(sql, &[&i64::try_from(copied).unwrap()]).unwrap();
    let foreign: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let mut move_on = mover(client);
    let client = &mut upgrade.new.connect();
    let mut steps = 0;
    loop {
        holder.batch_execute("BEGIN").unwrap();
        let held = holder.query_one("SELECT pg_current_xact_id()::text::bigint", &[]).unwrap().get(0);
        if foreign.contains(&held) {
            move_on();
            received.drain(client, "drained");
            received.read(client, "half", 7);
            received.read(client, "own", 7);
            position = received.follow(client, position);
            steps += 1;
        }
        holder.batch_execute("COMMIT").unwrap();
        if steps == 100 || Some(&held) > foreign.last() {
            break;
        }
    }
    assert!(steps > 5, "the IDs overlap");
    received.drain(client, "drained");
    received.drain(client, "half");
    received.drain(client, "own");
    received.follow(client, position);
}

/// Makes a transition of a new task at each call.
fn mover(client: &mut Client) -> impl FnMut() {
    let task = create_task(client);
    start_task(client, task);
    let mut states = ["failed", "retrying", "running"].into_iter().cycle();
    move || {
        let sql = "UPDATE workflow.task_instances SET state = $2 WHERE id = $1";
        client.execute(sql, &[&task, &states.next()]).unwrap();
    }
}
