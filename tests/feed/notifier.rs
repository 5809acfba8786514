//! The notifier: events are announced by a worker, after their transaction, whatever happens to it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::{Client, NoTls};
use serde_json::Value;
use std::time::{Duration, Instant};
use uuid::Uuid;
use xtask::stack::postgres::{PRELOADED, Shutdown};

/// A session that listens.
struct Listener(Client);

impl Listener {
    fn start(db: &Db) -> Listener {
        let mut client = db.connect();
        client.batch_execute("LISTEN workflow_events").unwrap();
        Listener(client)
    }

    /// The next so many events: their entities and versions.
    fn hear(&mut self, count: usize) -> Vec<(String, i64)> {
        let payloads = self.payloads(count);
        let events = payloads.iter().map(|payload| serde_json::from_str::<Value>(payload).expect("JSON"));
        events
            .map(|event| (event["entity_id"].as_str().unwrap().to_owned(), event["version"].as_i64().unwrap()))
            .collect()
    }

    fn payloads(&mut self, count: usize) -> Vec<String> {
        use fallible_iterator::FallibleIterator;
        let mut notifications = self.0.notifications();
        let heard = notifications.timeout_iter(PATIENCE).take(count).map(|heard| Ok(heard.payload().to_owned()));
        let heard: Vec<String> = heard.collect().unwrap();
        assert_eq!(heard.len(), count, "heard only {heard:?}");
        heard
    }

    /// What is heard until a marker of the test's own.
    fn hear_until_marker(&mut self, db: &Db) -> usize {
        let marker = Uuid::new_v4().to_string();
        db.connect().batch_execute(&format!("NOTIFY workflow_events, '{marker}'")).unwrap();
        (0..).take_while(|_| self.payloads(1)[0] != marker).count()
    }
}

fn pid(client: &mut Client) -> Option<i32> {
    client.query_opt("SELECT pid FROM workflow.notifier", &[]).unwrap().and_then(|row| row.get(0))
}

/// Waits for the notifier, and returns its process id.
fn wait_for_notifier(client: &mut Client) -> i32 {
    let mut found = None;
    wait_until("the notifier", || {
        found = pid(client);
        found.is_some()
    });
    found.unwrap()
}

fn version_2(id: Uuid) -> Vec<(String, i64)> {
    vec![(id.to_string(), 2)]
}

fn start_task(client: &mut Client, id: Uuid) {
    transition(client, "task_instance", id, State::Queued, State::Running).unwrap();
}

#[test]
fn a_worker_announces_and_shows_itself() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let tasks = create_tasks(client, 3);
    assert_eq!(listener.hear(4)[1..], tasks.iter().map(|task| (task.to_string(), 1)).collect::<Vec<_>>());
    let sql = "SELECT a.backend_type, a.application_name, a.datname = current_database(), n.events, n.errors, n.last_event_id, n.is_listened
               FROM workflow.notifier AS n JOIN pg_stat_activity AS a USING (pid)";
    wait_until("the view", || client.query_one(sql, &[]).unwrap().get::<_, i64>("events") == 4);
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!(row.get::<_, String>(0), "pg_workflow notifier");
    assert_eq!(row.get::<_, String>(1), "pg_workflow notifier");
    assert!(row.get::<_, bool>(2) && row.get::<_, bool>(6));
    assert_eq!((row.get::<_, i64>(4), row.get::<_, Option<i64>>(5)), (0, Some(4)));
}

#[test]
fn the_transaction_itself_sends_nothing() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let task = create_task(client);
    listener.hear(2);
    let own = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get::<_, i32>(0);
    start_task(client, task);
    use fallible_iterator::FallibleIterator;
    let mut notifications = listener.0.notifications();
    let heard = notifications.timeout_iter(PATIENCE).next().unwrap().expect("the event");
    assert_eq!(heard.process_id(), wait_for_notifier(client));
    assert_ne!(heard.process_id(), own);
}

#[test]
fn nothing_is_announced_that_was_rolled_back_or_came_before_the_listener() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    let mut late = db.connect();
    let mut open = late.transaction().unwrap();
    let sql = "SELECT workflow.transition('task_instance', $1, 'queued', 'running')";
    open.query_one(sql, &[&tasks[0]]).unwrap();
    let mut listener = Listener::start(&db);
    let mut undone = client.transaction().unwrap();
    undone.query_one(sql, &[&tasks[1]]).unwrap();
    undone.rollback().unwrap();
    start_task(client, tasks[2]);
    assert_eq!(listener.hear(1), version_2(tasks[2]));
    // It began before the LISTEN, and commits after it.
    open.commit().unwrap();
    assert_eq!(listener.hear(1), version_2(tasks[0]));
    assert_eq!(listener.hear_until_marker(&db), 0);
}

#[test]
fn everything_is_heard_once_while_many_write() {
    let db = Db::new();
    let tasks = create_tasks(&mut db.connect(), 200);
    let mut listener = Listener::start(&db);
    std::thread::scope(|scope| {
        for own in tasks.chunks(25) {
            let db = &db;
            scope.spawn(move || {
                let client = &mut db.connect();
                for task in own {
                    start_task(client, *task);
                    transition(client, "task_instance", *task, State::Running, State::Success).unwrap();
                }
            });
        }
    });
    let mut heard = listener.hear(400);
    for task in &tasks {
        let versions = heard.iter().filter(|event| event.0 == task.to_string()).map(|event| event.1);
        assert_eq!(versions.collect::<Vec<_>>(), [2, 3]);
    }
    heard.sort();
    heard.dedup();
    assert_eq!(heard.len(), 400);
}

#[test]
fn it_sends_as_the_settings_say() {
    let (cluster, db) = own_cluster("notifier-settings", &[PRELOADED, ("pg_workflow.batch_size", "7")]);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    create_tasks(client, 99);
    listener.hear(100);
    let batches = "SELECT batches FROM workflow.notifier";
    wait_until("batches of 7", || client.query_one(batches, &[]).unwrap().get::<_, i64>(0) >= 15);

    let set = |value: &str| {
        cluster.psql("workflow", &format!("ALTER SYSTEM SET pg_workflow.announce = {value}")).unwrap();
        cluster.psql("workflow", "SELECT pg_reload_conf()").unwrap();
    };
    set("wakeup");
    wait_until("wake-ups", || {
        create_tasks(client, 3);
        let heard = listener.payloads(1);
        listener.hear_until_marker(&db);
        heard[0].is_empty()
    });
    set("off");
    wait_until("silence", || {
        create_tasks(client, 3);
        let seen = "SELECT pending FROM workflow.notifier";
        wait_until("its round", || client.query_one(seen, &[]).unwrap().get::<_, i64>(0) == 0);
        listener.hear_until_marker(&db) == 0
    });
    set("events");
    wait_until("events", || {
        create_tasks(client, 1);
        listener.hear_until_marker(&db) == 2
    });
}

#[test]
fn a_database_that_it_does_not_serve_notifies_by_itself() {
    let settings = [PRELOADED, ("pg_workflow.databases", "other, another")];
    let (_cluster, db) = own_cluster("notifier-databases", &settings);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    create_task(client);
    listener.hear(2);
    assert_eq!(pid(client), None);
}

#[test]
fn without_a_free_worker_transactions_notify_by_themselves() {
    let (cluster, db) = own_cluster("notifier-none", &[PRELOADED, ("max_worker_processes", "0")]);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    create_task(client);
    listener.hear(2);
    assert_eq!(pid(client), None);
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    assert!(log.contains("HINT:  Raise max_worker_processes"), "{log}");
}

#[test]
fn without_preloading_transactions_notify_and_the_log_says_so_once() {
    let (cluster, db) = own_cluster("notifier-absent", &[]);
    let mut listener = Listener::start(&db);
    for _ in 0..3 {
        create_task(&mut db.connect());
        listener.hear(2);
    }
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    assert_eq!(log.matches("LOG:  each transaction sends its own notifications").count(), 1, "{log}");
    assert!(log.contains("HINT:  Add pg_workflow to shared_preload_libraries and restart"), "{log}");
    assert_eq!(db.connect().query("SELECT FROM workflow.notifier", &[]).unwrap().len(), 0);
}

#[test]
fn without_preloading_a_session_announces_as_it_is_told_to() {
    let (_cluster, db) = own_cluster("notifier-session", &[]);
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    let mut listener = Listener::start(&db);
    for (task, announce) in tasks.iter().zip(["off", "wakeup", "events"]) {
        client.batch_execute(&format!("SET pg_workflow.announce = {announce}")).unwrap();
        start_task(client, *task);
    }
    let heard = listener.payloads(2);
    assert_eq!(heard[0], "");
    assert!(heard[1].contains(&tasks[2].to_string()), "{}", heard[1]);
}

#[test]
fn each_database_has_its_own() {
    let (cluster, db) = own_cluster("notifier-two", &[PRELOADED]);
    let other = Db::at(cluster.create_database("other").unwrap());
    other.connect().batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    let mut listeners = [Listener::start(&db), Listener::start(&other)];
    let tasks = [create_task(&mut db.connect()), create_task(&mut other.connect())];
    for (listener, task) in listeners.iter_mut().zip(tasks) {
        assert_eq!(listener.hear(2)[1].0, task.to_string());
    }
    assert_ne!(wait_for_notifier(&mut db.connect()), wait_for_notifier(&mut other.connect()));
}

/// PostgreSQL answers a killed process with a restart of all of them, and shared memory begins anew.
#[test]
fn a_killed_backend_and_a_killed_notifier_leave_it_working() {
    let (_cluster, db) = own_cluster("notifier-killed", &[PRELOADED]);
    let backend = "SELECT pg_backend_pid()";
    for victim in [backend, "SELECT pid FROM workflow.notifier", backend] {
        create_task(&mut db.connect());
        wait_for_notifier(&mut db.connect());
        let mut witness = db.connect();
        let mut session = db.connect();
        let process: i32 = session.query_one(victim, &[]).unwrap().get(0);
        kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
        wait_until("the restart", || witness.batch_execute("").is_err());
        wait_until("the server", || Client::connect(db.url(), NoTls).is_ok());
        let mut listener = Listener::start(&db);
        let task = create_task(&mut db.connect());
        assert_eq!(listener.hear(2)[1].0, task.to_string());
    }
}

#[test]
fn a_terminated_notifier_comes_back_and_repeats_nothing() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let task = create_task(client);
    listener.hear(2);
    let first = wait_for_notifier(client);
    client.execute("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
    wait_until("its end", || pid(client).is_none());
    start_task(client, task);
    assert_eq!(listener.hear(1), version_2(task));
    assert_ne!(wait_for_notifier(client), first);
    assert_eq!(listener.hear_until_marker(&db), 0);
}

#[test]
fn its_own_error_is_shown_and_tried_again_with_pauses() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let task = create_task(client);
    listener.hear(2);
    client.batch_execute("ALTER FUNCTION workflow.current_place() RENAME TO hidden").unwrap();
    start_task(client, task);
    let errors = "SELECT errors, last_error, last_error_at > started_at FROM workflow.notifier";
    let began = Instant::now();
    wait_until("errors", || client.query_one(errors, &[]).unwrap().get::<_, i64>(0) >= 2);
    assert!(began.elapsed() >= Duration::from_millis(900), "the second attempt comes after a pause");
    let row = client.query_one(errors, &[]).unwrap();
    assert!(row.get::<_, String>(1).contains("current_place"));
    assert!(row.get::<_, i64>(0) < 4 && row.get::<_, bool>(2));
    client.batch_execute("ALTER FUNCTION workflow.hidden() RENAME TO current_place").unwrap();
    assert_eq!(listener.hear(1), version_2(task), "nothing was lost meanwhile");
}

#[test]
fn the_extension_can_be_dropped_and_created_again() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    for _ in 0..2 {
        let task = create_task(client);
        assert_eq!(listener.hear(2)[1].0, task.to_string());
        client.batch_execute("DROP EXTENSION pg_workflow CASCADE").unwrap();
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE backend_type = 'pg_workflow notifier' AND datname = current_database()";
        wait_until("its end", || client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 0);
        client.batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    }
    // Who listens before there is an extension hears of its first event.
    let task = create_task(client);
    assert_eq!(listener.hear(2)[1].0, task.to_string());
}

#[test]
fn its_database_can_be_renamed_copied_and_dropped() {
    let (cluster, db) = own_cluster("notifier-drop", &[PRELOADED]);
    for statement in [
        "ALTER DATABASE workflow RENAME TO w2",
        "ALTER DATABASE w2 RENAME TO workflow",
        "CREATE DATABASE copy TEMPLATE workflow",
        "DROP DATABASE workflow",
    ] {
        let name = if statement.contains("DATABASE w2") { "w2" } else { "workflow" };
        let at = Db::at(cluster.url(name)).without_verification();
        create_task(&mut at.connect());
        wait_for_notifier(&mut at.connect());
        let began = Instant::now();
        cluster.psql("postgres", statement).unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "{statement}: {:?}", began.elapsed());
    }
    drop(db.without_verification());
    // A new database of the old name is another one.
    cluster.psql("postgres", "CREATE DATABASE workflow").unwrap();
    cluster.psql("workflow", "CREATE EXTENSION pg_workflow").unwrap();
    let db = Db::at(cluster.url("workflow"));
    let mut listener = Listener::start(&db);
    create_task(&mut db.connect());
    listener.hear(2);
}

/// DROP DATABASE has every process close its files, and waits for all of them.
#[test]
fn it_holds_up_no_drop_of_another_database() {
    let (cluster, db) = own_cluster("notifier-barrier", &[PRELOADED]);
    let client = &mut db.connect();
    let drop_another = || {
        cluster.create_database("another").unwrap();
        let began = Instant::now();
        cluster.psql("postgres", "DROP DATABASE another").unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    };
    let task = create_task(client);
    wait_for_notifier(client);
    drop_another();
    // Nor while it waits after an error.
    let _listener = Listener::start(&db);
    client.batch_execute("ALTER FUNCTION workflow.current_place() RENAME TO hidden").unwrap();
    start_task(client, task);
    let errors = "SELECT errors FROM workflow.notifier";
    wait_until("a pause of 4 s", || client.query_one(errors, &[]).unwrap().get::<_, i64>(0) >= 3);
    drop_another();
    client.batch_execute("ALTER FUNCTION workflow.hidden() RENAME TO current_place").unwrap();
}

#[test]
fn it_lets_the_server_stop_and_start() {
    let (cluster, db) = own_cluster("notifier-stop", &[PRELOADED]);
    for how in [Shutdown::Fast, Shutdown::Smart, Shutdown::Immediate] {
        let mut listener = Listener::start(&db);
        create_task(&mut db.connect());
        listener.hear(2);
        drop(listener);
        let began = Instant::now();
        cluster.stop(how).unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{how:?}: {:?}", began.elapsed());
        cluster.start_again().unwrap();
    }
}

#[test]
fn a_promoted_standby_has_one_too() {
    let (primary, db) = own_cluster("notifier-promoted", &[PRELOADED]);
    let standby = primary.standby("notifier-promoted").unwrap();
    primary.wait_for_standby().unwrap();
    let task = create_task(&mut db.connect());
    let promoted = Db::at(standby.url("workflow"));
    // It takes no LISTEN, and says so in PostgreSQL's own words.
    let failed = failure(promoted.connect().batch_execute("LISTEN workflow_events"));
    assert_eq!(failed.sqlstate, "25006");
    primary.kill().unwrap();
    standby.promote().unwrap();
    let mut listener = Listener::start(&promoted);
    start_task(&mut promoted.connect(), task);
    assert_eq!(listener.hear(1), version_2(task));
    drop(db.without_verification());
}

#[test]
fn a_locked_table_does_not_keep_the_server_from_stopping() {
    let (cluster, db) = own_cluster("notifier-locked", &[PRELOADED]);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    create_task(client);
    listener.hear(2);
    let mut holder = db.connect();
    let mut lock = holder.transaction().unwrap();
    lock.batch_execute("LOCK TABLE workflow.state_history").unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE backend_type = 'pg_workflow notifier' AND wait_event_type = 'Lock'";
    wait_until("it waits for the lock", || client.query_one(waits, &[]).unwrap().get::<_, i64>(0) == 1);
    let began = Instant::now();
    cluster.stop(Shutdown::Fast).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    cluster.start_again().unwrap();
}

#[test]
fn a_prepared_transaction_is_found_by_polling() {
    let (_cluster, db) = own_cluster("notifier-prepared", &[PRELOADED, ("max_prepared_transactions", "5")]);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let task = create_task(client);
    listener.hear(2);
    client.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    client
        .batch_execute(&format!(
            "BEGIN; SELECT workflow.transition('task_instance', '{task}', 'queued', 'running'); PREPARE TRANSACTION 'p'"
        ))
        .unwrap();
    let read = "SELECT entity_id::text, version FROM workflow.read_events('reader', 10, '10 s')";
    assert_eq!(client.query(read, &[]).unwrap().len(), 0);
    assert_eq!(listener.hear_until_marker(&db), 0);
    // By a session that has never called anything of ours.
    db.connect().batch_execute("COMMIT PREPARED 'p'").unwrap();
    assert_eq!(listener.hear(1), version_2(task));
    let rows =
        client.query("SELECT entity_id::text, version FROM workflow.read_events('reader', 10, '1 s')", &[]).unwrap();
    assert_eq!((rows[0].get::<_, String>(0), rows[0].get::<_, i64>(1)), (task.to_string(), 2));
}

#[test]
fn a_commit_wakes_a_reader_that_waits() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let reader = &mut db.connect();
    reader.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    let read = "SELECT version FROM workflow.read_events('reader', 10, '60 s')";
    // The first finds nothing without waiting: before it, something may have been left.
    assert!(reader.query(read, &[]).unwrap().is_empty());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let began = Instant::now();
            (
                reader.query(read, &[]).unwrap().iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(),
                began.elapsed(),
            )
        });
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event = 'Extension' AND query LIKE '%read_events%' AND datname = current_database()
                       AND pid <> pg_backend_pid()";
        wait_until("it waits", || client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 1);
        start_task(client, task);
        let (versions, took) = waiting.join().unwrap();
        assert_eq!(versions, [2]);
        assert!(took < Duration::from_secs(30), "it was woken: {took:?}");
    });
}

#[test]
fn a_reader_that_waits_can_be_cancelled_and_holds_up_nobody() {
    let db = Db::new();
    let client = &mut db.connect();
    let reader = &mut db.connect();
    reader.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    let read = "SELECT version FROM workflow.read_events('reader', 10, '60 s')";
    assert!(reader.query(read, &[]).unwrap().is_empty());
    reader.batch_execute("SET statement_timeout = '100ms'").unwrap();
    for _ in 0..100 {
        assert_eq!(failure(reader.query(read, &[])).sqlstate, "57014");
        // Somebody else reads as the same consumer meanwhile.
        client.query("SELECT FROM workflow.read_events('reader')", &[]).unwrap();
        reader.batch_execute("SET statement_timeout = '1ms'").unwrap();
    }
}
