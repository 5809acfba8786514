//! Notifications: which are sent, by which process, and by which settings.

use super::{Listener, version_2, wait_for_notifier};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use xtask::stack::postgres::PRELOADED;

#[test]
fn background_worker_notifies_and_appears_in_view() {
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
fn transaction_sends_no_notification_itself() {
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
fn only_commits_after_listen_are_notified() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    let mut late = db.connect();
    let mut open = late.transaction().unwrap();
    start_task(&mut open, tasks[0]);
    let mut listener = Listener::start(&db);
    let mut undone = client.transaction().unwrap();
    start_task(&mut undone, tasks[1]);
    undone.rollback().unwrap();
    start_task(client, tasks[2]);
    assert_eq!(listener.hear(1), version_2(tasks[2]));
    // This transaction began before the LISTEN and commits after it.
    open.commit().unwrap();
    assert_eq!(listener.hear(1), version_2(tasks[0]));
    assert_eq!(listener.hear_until_marker(&db), 0);
}

#[test]
fn listener_gets_each_event_once_under_load() {
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
                    Transition::of(*task).from(State::Running).to(State::Success).run(client).unwrap();
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
fn notifier_follows_its_settings() {
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
        wait_until("the notifier has read all events", || client.query_one(seen, &[]).unwrap().get::<_, i64>(0) == 0);
        listener.hear_until_marker(&db) == 0
    });
    set("events");
    wait_until("events", || {
        create_tasks(client, 1);
        listener.hear_until_marker(&db) == 2
    });
}

#[test]
fn polling_finds_prepared_transaction() {
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
    // The committing session has never called the extension.
    db.connect().batch_execute("COMMIT PREPARED 'p'").unwrap();
    assert_eq!(listener.hear(1), version_2(task));
    let rows =
        client.query("SELECT entity_id::text, version FROM workflow.read_events('reader', 10, '1 s')", &[]).unwrap();
    assert_eq!((rows[0].get::<_, String>(0), rows[0].get::<_, i64>(1)), (task.to_string(), 2));
}
