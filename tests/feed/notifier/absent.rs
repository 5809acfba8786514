//! Without a notifier, transactions notify by themselves.

use super::{Listener, pid};
use pg_workflow_tests::*;
use xtask::stack::postgres::PRELOADED;

#[test]
fn transactions_notify_in_unserved_database() {
    let settings = [PRELOADED, ("pg_workflow.databases", "other, another")];
    let (_cluster, db) = own_cluster("notifier-databases", &settings);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    create_task(client);
    listener.hear(2);
    assert_eq!(pid(client), None);
}

#[test]
fn transactions_notify_without_a_free_worker() {
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
fn transactions_notify_without_preloading_and_log_it_once() {
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
fn session_setting_applies_without_preloading() {
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
