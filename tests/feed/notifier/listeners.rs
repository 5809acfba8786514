//! The count of listeners: after the last one has gone the notifier sends nothing, and the next one loses nothing.

use super::{Listener, all_ids, version_2};
use pg_workflow_tests::*;
use postgres::Client;
use std::sync::Barrier;
use xtask::stack::postgres::PRELOADED;

/// The notifier does not look by itself: only a listener or a commit can make it do something.
const NO_POLLING: (&str, &str) = ("pg_workflow.poll_interval", "60s");

fn is_listened(client: &mut Client) -> bool {
    client.query_one("SELECT is_listened FROM workflow.notifier", &[]).unwrap().get(0)
}

fn wait_until_unheard(client: &mut Client) {
    wait_until("the end of the last listener", || !is_listened(client));
}

fn events(client: &mut Client) -> i64 {
    client.query_one("SELECT events FROM workflow.notifier", &[]).unwrap().get(0)
}

#[test]
fn notifier_sends_nothing_after_the_last_listener_left() {
    let (_cluster, db) = own_cluster("notifier-left", &[PRELOADED, NO_POLLING]);
    let client = &mut db.connect();
    let mut sent = 0;
    for leave in [
        "UNLISTEN workflow_events",
        "UNLISTEN *",
        "DISCARD ALL",
        "BEGIN; SAVEPOINT s; UNLISTEN \"workflow_events\"; RELEASE s; COMMIT",
        "DO $$ BEGIN EXECUTE 'UNLISTEN workflow_events'; END $$",
        "SELECT pg_terminate_backend(pg_backend_pid())",
        "disconnect",
    ] {
        let mut listener = Listener::start(&db);
        create_task(client);
        listener.hear(2);
        let session = if leave == "disconnect" {
            drop(listener);
            None
        } else {
            // The end of the session is an error.
            assert_eq!(listener.0.batch_execute(leave).is_err(), leave.contains("terminate"));
            Some(listener)
        };
        wait_until_unheard(client);
        create_tasks(client, 3);
        let mut next = Listener::start(&db);
        let task = create_task(client);
        assert_eq!(next.hear(2)[1], (task.to_string(), 1), "{leave}");
        sent += 4;
        // The notifier counts events just after it has sent them.
        wait_until(leave, || events(client) == sent);
        drop((session, next));
        wait_until_unheard(client);
    }
}

#[test]
fn undone_listen_counts_no_listener() {
    let (_cluster, db) = own_cluster("notifier-undone", &[PRELOADED]);
    let client = &mut db.connect();
    create_task(client);
    let session = &mut db.connect();
    let mut listen = session.transaction().unwrap();
    listen.batch_execute("LISTEN workflow_events").unwrap();
    assert!(is_listened(client), "it counts before its commit");
    listen.rollback().unwrap();
    assert!(!is_listened(client));
    for sql in [
        "BEGIN; SAVEPOINT s; LISTEN workflow_events; ROLLBACK TO s; COMMIT",
        "BEGIN; SAVEPOINT s; LISTEN workflow_events; SAVEPOINT t; RELEASE t; ROLLBACK TO s; COMMIT",
        "BEGIN; LISTEN workflow_events; SAVEPOINT s; UNLISTEN *; COMMIT",
        "BEGIN; LISTEN workflow_events; UNLISTEN workflow_events; SAVEPOINT s; LISTEN workflow_events; ROLLBACK TO s; COMMIT",
        "DO $$ BEGIN LISTEN workflow_events; RAISE 'undone'; EXCEPTION WHEN OTHERS THEN NULL; END $$",
        "LISTEN other_events",
        "LISTEN \"Workflow_events\"",
    ] {
        session.batch_execute(sql).unwrap();
        assert!(!is_listened(client), "{sql}");
    }
    // The error comes with the commit.
    let broken = "CREATE TABLE t (n integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
                  BEGIN; LISTEN workflow_events; INSERT INTO t VALUES (1), (1); COMMIT";
    assert_eq!(failure(session.batch_execute(broken)).sqlstate, "23505");
    // The session sends the error, and then rolls back.
    session.batch_execute("ROLLBACK").unwrap();
    assert!(!is_listened(client));
    session.batch_execute("LISTEN workflow_events").unwrap();
    assert!(is_listened(client), "the session can still listen");
}

#[test]
fn undone_unlisten_keeps_the_listener() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    for sql in [
        "BEGIN; UNLISTEN *; ROLLBACK",
        "BEGIN; SAVEPOINT s; UNLISTEN workflow_events; ROLLBACK TO s; COMMIT",
        "BEGIN; SAVEPOINT s; SAVEPOINT t; UNLISTEN *; RELEASE t; ROLLBACK TO s; COMMIT",
        "BEGIN; UNLISTEN *; LISTEN workflow_events; COMMIT",
        "BEGIN; UNLISTEN *; SAVEPOINT s; LISTEN workflow_events; COMMIT",
        "BEGIN; LISTEN workflow_events; SAVEPOINT s; UNLISTEN *; ROLLBACK TO s; COMMIT",
        "BEGIN; SAVEPOINT s; LISTEN workflow_events; ROLLBACK TO s; COMMIT",
        "DO $$ BEGIN UNLISTEN *; RAISE 'undone'; EXCEPTION WHEN OTHERS THEN NULL; END $$",
        "UNLISTEN other_events",
        "DISCARD TEMP",
    ] {
        listener.0.batch_execute(sql).unwrap();
        assert!(is_listened(client), "{sql}");
        let task = create_task(client);
        assert_eq!(listener.hear(2)[1], (task.to_string(), 1), "{sql}");
    }
    assert_eq!(listener.hear_until_marker(&db), 0);
}

#[test]
fn staying_listener_hears_each_event_once_while_others_change() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..100).for_each(|_| drop(create_tasks(&mut db.connect(), 3))));
        }
        for leave in ["UNLISTEN *", "DISCARD ALL", "BEGIN; LISTEN workflow_events; ROLLBACK"] {
            let db = &db;
            scope.spawn(move || (0..30).for_each(|_| Listener::start(db).0.batch_execute(leave).unwrap()));
        }
    });
    assert_eq!(listener.ids(client), all_ids(client));
}

#[test]
fn new_listener_hears_all_later_events_as_the_last_one_leaves() {
    let (_cluster, db) = own_cluster("notifier-next", &[PRELOADED, NO_POLLING]);
    let (client, writer) = (&mut db.connect(), &mut db.connect());
    let mut last = Listener::start(&db);
    for n in 0..50 {
        let mut next = db.connect();
        let start = Barrier::new(3);
        let listened_from: String = std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                // The count falls before, while or after the next one listens.
                std::thread::sleep(std::time::Duration::from_micros(n * 40));
                last.0.batch_execute("UNLISTEN *").unwrap();
            });
            scope.spawn(|| {
                start.wait();
                (0..10).for_each(|_| drop(create_tasks(writer, 1)));
            });
            start.wait();
            next.batch_execute("LISTEN workflow_events").unwrap();
            next.query_one("SELECT pg_current_snapshot()::text", &[]).unwrap().get(0)
        });
        let mut next = Listener(next);
        let heard = next.ids(client);
        let sql = "SELECT id FROM workflow.state_history
                   WHERE NOT pg_visible_in_snapshot(transaction_id, $1::text::pg_snapshot)";
        for row in client.query(sql, &[&listened_from]).unwrap() {
            let id: i64 = row.get(0);
            assert!(heard.contains(&id), "round {n}: {id} is not in {heard:?}");
        }
        assert!(heard.is_sorted_by(|first, second| first < second), "round {n}: twice in {heard:?}");
        last = next;
    }
}

#[test]
fn listeners_are_counted_by_database() {
    let (cluster, db) = own_cluster("notifier-each", &[PRELOADED, NO_POLLING]);
    let other = Db::at(cluster.create_database("other").unwrap());
    other.connect().batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    let (client, there) = (&mut db.connect(), &mut other.connect());
    let _listener = Listener::start(&db);
    create_tasks(there, 3);
    assert!(is_listened(client) && !is_listened(there));
    let mut listener = Listener::start(&other);
    let task = create_task(there);
    assert_eq!(listener.hear(2)[1], (task.to_string(), 1));
    drop(listener);
    wait_until_unheard(there);
    assert!(is_listened(client));
}

/// There is a counter for each OID modulo 1024.
#[test]
fn databases_with_one_counter_hear_only_later_events() {
    let (cluster, _db) = own_cluster("notifier-counter", &[PRELOADED, NO_POLLING]);
    let [first, second] = [("first", 50_001), ("second", 51_025)].map(|(name, oid)| {
        cluster.psql("postgres", &format!("CREATE DATABASE {name} OID = {oid}")).unwrap();
        cluster.psql(name, "CREATE EXTENSION pg_workflow").unwrap();
        Db::at(cluster.url(name))
    });
    let client = &mut first.connect();
    let mut listener = Listener::start(&first);
    let task = create_task(client);
    listener.hear(2);
    drop(listener);
    wait_until_unheard(client);
    start_task(client, task);
    let mut other = Listener::start(&second);
    assert!(is_listened(client), "the counter is shared");
    let mut listener = Listener::start(&first);
    let task = create_task(client);
    assert_eq!(listener.hear(2)[1], (task.to_string(), 1));
    let there = create_task(&mut second.connect());
    assert_eq!(other.hear(2)[1], (there.to_string(), 1));
    other.0.batch_execute("UNLISTEN *").unwrap();
    start_task(client, task);
    assert_eq!(listener.hear(1), version_2(task));
}
