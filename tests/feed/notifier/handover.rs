//! Each event is heard once, also if the notifier starts late, ends during a window, or cannot start.

use super::{Listener, all_ids, pid, version_2, wait_for_notifier};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use xtask::setup::PostgresInstall;
use xtask::stack::postgres::{PRELOADED, Shutdown};

#[test]
fn late_notifier_repeats_nothing() {
    let settings = [PRELOADED, ("max_worker_processes", "1"), ("max_logical_replication_workers", "0")];
    let (cluster, db) = own_cluster("notifier-late", &settings);
    let other = Db::at(cluster.create_database("other").unwrap()).without_verification();
    other.connect().batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    create_task(&mut other.connect());
    wait_for_notifier(&mut other.connect());

    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let tasks = create_tasks(client, 3);
    assert_eq!(listener.ids(client), all_ids(client));
    let view = "SELECT errors, last_error FROM workflow.notifier";
    let row = client.query_one(view, &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    assert!(row.get::<_, String>(1).contains("no background worker is free"));

    let before = all_ids(client);
    let mut open = db.connect();
    let mut open = open.transaction().unwrap();
    start_task(&mut open, tasks[0]);
    cluster.psql("postgres", "DROP DATABASE other").unwrap();
    wait_until("the notifier", || {
        create_task(client);
        pid(client).is_some()
    });
    start_task(&mut open, tasks[1]);
    open.commit().unwrap();
    create_tasks(client, 3);
    let after: Vec<i64> = all_ids(client).into_iter().filter(|id| !before.contains(id)).collect();
    assert_eq!(listener.ids(client), after);
}

#[test]
fn database_without_slot_gets_one_when_another_is_dropped() {
    let (cluster, db) = own_cluster("notifier-33", &[PRELOADED, ("max_worker_processes", "50")]);
    for n in 0..32 {
        let name = format!("full_{n}");
        cluster.psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE workflow")).unwrap();
        create_task(&mut Db::at(cluster.url(&name)).without_verification().connect());
    }
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    create_task(client);
    assert_eq!(client.query("SELECT FROM workflow.notifier", &[]).unwrap().len(), 0);
    cluster.psql("postgres", "DROP DATABASE full_7").unwrap();
    create_tasks(client, 3);
    wait_for_notifier(client);
    create_task(client);
    assert_eq!(listener.ids(client), all_ids(client));
}

#[test]
fn notifier_that_ends_within_a_window_goes_on_there() {
    let settings = [PRELOADED, ("pg_workflow.batch_size", "10"), ("pg_workflow.batch_delay", "20ms")];
    let (cluster, db) = own_cluster("notifier-window", &settings);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    for how in ["terminate", "rename"] {
        let before = all_ids(client);
        let first = wait_for_notifier(client);
        create_tasks(client, 1999);
        listener.payloads(50);
        if how == "terminate" {
            client.execute("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
        } else {
            // It fails, because the listener stays.
            cluster.psql("postgres", "ALTER DATABASE workflow RENAME TO renamed").unwrap_err();
        }
        // Nothing else happens in the database.
        let rest = listener.ids(client);
        let all: Vec<i64> = all_ids(client).into_iter().filter(|id| !before.contains(id)).collect();
        assert_eq!(rest, all[50..], "{how}");
        assert_ne!(wait_for_notifier(client), first, "{how}");
    }
}

#[test]
fn thousands_of_open_transactions_repeat_nothing() {
    const OPEN: usize = 10_000;
    let count = (OPEN + 10).to_string();
    let settings = [PRELOADED, ("max_prepared_transactions", count.as_str()), ("pg_workflow.poll_interval", "10ms")];
    let (cluster, db) = own_cluster("notifier-open", &settings);
    let mut holder = Db::at(cluster.url("postgres")).without_verification().connect();
    for n in 0..OPEN {
        let sql = format!("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'open {n}'");
        holder.batch_execute(&sql).unwrap();
    }
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    for _ in 0..5 {
        create_task(client);
    }
    assert_eq!(listener.ids(client), all_ids(client));
    // Also when it only polls, and after it has come back.
    let first = wait_for_notifier(client);
    client.execute("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
    wait_until("another notifier", || pid(client).is_some_and(|pid| pid != first));
    let before = all_ids(client);
    create_task(client);
    let after: Vec<i64> = all_ids(client).into_iter().filter(|id| !before.contains(id)).collect();
    assert_eq!(listener.ids(client), after);
}

#[test]
fn notifier_starts_from_the_path_of_the_preloaded_library() {
    // PostgreSQL 18 drops "$libdir/" when it loads the library of a function: without it in the path, no function in C
    // works, not even PL/pgSQL.
    let path = if PostgresInstall::find().unwrap().unwrap().major < 18 { "/nonexistent" } else { "$libdir" };
    let settings = [("shared_preload_libraries", "$libdir/pg_workflow"), ("dynamic_library_path", path)];
    let (_cluster, db) = own_cluster("notifier-path", &settings);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    wait_for_notifier(client);
    create_task(client);
    assert_eq!(listener.ids(client), all_ids(client));
}

#[test]
fn notifier_starts_in_a_database_closed_to_connections() {
    let (cluster, db) = own_cluster("notifier-closed", &[PRELOADED]);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let first = wait_for_notifier(client);
    cluster.psql("postgres", "ALTER DATABASE workflow ALLOW_CONNECTIONS false").unwrap();
    client.execute("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
    wait_until("another notifier", || pid(client).is_some_and(|pid| pid != first));
    create_task(client);
    assert_eq!(listener.ids(client), all_ids(client));
    cluster.psql("postgres", "ALTER DATABASE workflow ALLOW_CONNECTIONS true").unwrap();
}

#[test]
fn transactions_notify_while_the_notifier_cannot_start() {
    let (cluster, db) = own_cluster("notifier-stuck", &[PRELOADED]);
    let client = &mut db.connect();
    let mut listener = db.connect();
    let tasks = create_tasks(client, 2000);
    let created = all_ids(client);
    let view = "SELECT errors, coalesce(last_error, '') FROM workflow.notifier";
    client.query_one(view, &[]).unwrap();
    let first = wait_for_notifier(client);
    // A new process needs this table before it can connect.
    let mut holder = Db::at(cluster.url("postgres")).without_verification().connect();
    let mut lock = holder.transaction().unwrap();
    lock.batch_execute("LOCK TABLE pg_database").unwrap();
    listener.batch_execute("LISTEN workflow_events").unwrap();
    let mut listener = Listener(listener);
    client.execute("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
    wait_until("the end of the notifier", || pid(client).is_none());
    let mut tasks = tasks.into_iter();
    // Owed: it is heard when the notifier comes.
    start_task(client, tasks.next().unwrap());
    wait_until("an error", || {
        start_task(client, tasks.next().unwrap());
        client.query_one(view, &[]).unwrap().get::<_, i64>(0) == 1
    });
    let error: String = client.query_one(view, &[]).unwrap().get(1);
    assert!(error.contains("has not started"), "{error}");
    // This transaction notifies by itself.
    let own = tasks.next().unwrap();
    start_task(client, own);
    let mut heard = Vec::new();
    loop {
        let event: serde_json::Value = serde_json::from_str(&listener.payloads(1)[0]).unwrap();
        heard.push(event["id"].as_i64().unwrap());
        if event["entity_id"] == own.to_string() {
            break;
        }
    }
    lock.commit().unwrap();
    start_task(client, tasks.next().unwrap());
    wait_for_notifier(client);
    heard.extend(listener.ids(client));
    heard.sort_unstable();
    let moved: Vec<i64> = all_ids(client).into_iter().filter(|id| !created.contains(id)).collect();
    assert_eq!(heard, moved);
}

#[test]
fn commit_prepared_is_heard_at_once_as_first_event_after_restart() {
    let settings = [PRELOADED, ("max_prepared_transactions", "5"), ("pg_workflow.poll_interval", "60s")];
    let (cluster, db) = own_cluster("notifier-first", &settings);
    let client = &mut db.connect();
    let task = create_task(client);
    client
        .batch_execute(&format!(
            "BEGIN; SELECT workflow.transition('task_instance', '{task}', 'queued', 'running'); PREPARE TRANSACTION 'p'"
        ))
        .unwrap();
    cluster.stop(Shutdown::Fast).unwrap();
    cluster.start_again().unwrap();
    let mut listener = Listener::start(&db);
    let client = &mut db.connect();
    wait_for_notifier(client);
    // It has read everything, and waits.
    let idle = "SELECT count(*) FROM pg_stat_activity
                WHERE backend_type = 'pg_workflow notifier' AND wait_event = 'Extension'";
    wait_until("the notifier waits", || client.query_one(idle, &[]).unwrap().get::<_, i64>(0) == 1);
    let began = std::time::Instant::now();
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    assert_eq!(listener.hear(1), version_2(task));
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn listen_starts_the_notifier() {
    let (cluster, db) = own_cluster("notifier-listen", &[PRELOADED]);
    create_task(&mut db.connect());
    cluster.stop(Shutdown::Fast).unwrap();
    cluster.start_again().unwrap();
    let _listener = Listener::start(&db);
    wait_for_notifier(&mut db.connect());
}

/// Takes away the out-of-line parts of the history's values, as a broken disk may.
const BREAK_VALUES: &str = "
    SET LOCAL allow_system_table_mods = on;
    DO $$
    DECLARE
        toast regclass := (SELECT reltoastrelid FROM pg_class WHERE oid = 'workflow.state_history_0'::regclass);
    BEGIN
        UPDATE pg_class SET relkind = 'r' WHERE oid = toast;
        EXECUTE format('TRUNCATE %s', toast);
        UPDATE pg_class SET relkind = 't' WHERE oid = toast;
    END $$";

#[test]
fn broken_event_is_skipped_and_counted_once() {
    let (cluster, db) = own_cluster("notifier-broken", &[PRELOADED]);
    let db = db.without_verification();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 9);
    client.batch_execute("ALTER TABLE workflow.state_history_0 ALTER metadata SET STORAGE EXTERNAL").unwrap();
    let mut listener = Listener::start(&db);
    let mut transaction = client.transaction().unwrap();
    for (n, task) in tasks.iter().enumerate() {
        let text = "x".repeat(if n == 4 { 4000 } else { 10 });
        let transition = Transition::of(*task).metadata(serde_json::json!({ "text": text }));
        transition.from(State::Queued).to(State::Running).run(&mut transaction).unwrap();
    }
    transaction.batch_execute(BREAK_VALUES).unwrap();
    transaction.commit().unwrap();
    let heard = listener.hear(8);
    let broken = tasks[4].to_string();
    assert!(heard.iter().all(|event| event.0 != broken), "{heard:?}");
    assert_eq!(listener.hear_until_marker(&db), 0);
    let row = client.query_one("SELECT errors, last_error FROM workflow.notifier", &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    assert!(row.get::<_, String>(1).contains("skipped"));
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    assert_eq!(log.matches("could not send notifications").count(), 1, "{log}");
}

#[test]
fn notifier_waits_in_the_queue_of_a_lock() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let task = create_task(client);
    listener.hear(2);
    let notifier = wait_for_notifier(client);
    let mut holder = db.connect();
    let mut lock = holder.transaction().unwrap();
    lock.batch_execute("LOCK TABLE workflow.state_history IN ACCESS EXCLUSIVE MODE").unwrap();
    start_task(&mut lock, task);
    let waits = "SELECT xact_start::text FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
    let mut attempts = std::collections::HashSet::new();
    wait_until("five attempts", || {
        attempts.extend(client.query(waits, &[&notifier]).unwrap().iter().map(|row| row.get::<_, String>(0)));
        attempts.len() >= 5
    });
    lock.commit().unwrap();
    let began = std::time::Instant::now();
    assert_eq!(listener.hear(1), version_2(task));
    assert!(began.elapsed() < std::time::Duration::from_secs(3), "{:?}", began.elapsed());
    let errors: i64 = client.query_one("SELECT errors FROM workflow.notifier", &[]).unwrap().get(0);
    assert_eq!(errors, 1, "one for the whole wait");
}
