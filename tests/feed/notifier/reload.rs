//! Each event is heard at most once while settings are reloaded, and once if none of them says off.

use super::{Listener, all_ids, pid};
use pg_workflow_tests::*;
use std::sync::atomic::{AtomicBool, Ordering};
use xtask::stack::postgres::{PRELOADED, Postgres};

fn set(cluster: &Postgres, setting: &str, value: &str) {
    cluster.psql("postgres", &format!("ALTER SYSTEM SET pg_workflow.{setting} = '{value}'")).unwrap();
    cluster.psql("postgres", "SELECT pg_reload_conf()").unwrap();
}

/// Writes events while `work` runs.
fn while_writing(db: &Db, work: impl FnOnce()) {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let client = &mut db.connect();
                while !is_done.load(Ordering::Relaxed) {
                    create_tasks(client, 3);
                }
            });
        }
        work();
        is_done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn reload_of_databases_loses_and_repeats_nothing() {
    let (cluster, db) = own_cluster("notifier-reload", &[PRELOADED, ("pg_workflow.batch_size", "5")]);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    while_writing(&db, || {
        let client = &mut db.connect();
        for _ in 0..3 {
            set(&cluster, "databases", "other");
            wait_until("no notifier", || pid(client).is_none());
            set(&cluster, "databases", "*");
            wait_until("a notifier", || pid(client).is_some());
        }
        set(&cluster, "databases", "other");
        wait_until("no notifier", || pid(client).is_none());
    });
    assert_eq!(listener.ids(client), all_ids(client));
    // What was notified meanwhile is not redelivered.
    let before = all_ids(client);
    create_tasks(client, 3);
    set(&cluster, "databases", "*");
    wait_until("a notifier", || {
        create_task(client);
        pid(client).is_some()
    });
    let after: Vec<i64> = all_ids(client).into_iter().filter(|id| !before.contains(id)).collect();
    assert_eq!(listener.ids(client), after);
}

#[test]
fn reload_of_batches_loses_and_repeats_nothing() {
    let (cluster, db) = own_cluster("notifier-batches", &[PRELOADED]);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    while_writing(&db, || {
        for (setting, value) in [
            ("batch_size", "1"),
            ("batch_delay", "100ms"),
            ("batch_size", "7"),
            ("batch_delay", "0"),
            ("poll_interval", "60s"),
            ("batch_size", "100000"),
            ("poll_interval", "10ms"),
        ] {
            let events = "SELECT events FROM workflow.notifier";
            let client = &mut db.connect();
            let before: i64 = client.query_one(events, &[]).unwrap().get(0);
            set(&cluster, setting, value);
            wait_until("more events", || client.query_one(events, &[]).unwrap().get::<_, i64>(0) > before + 20);
        }
    });
    assert_eq!(listener.ids(client), all_ids(client));
}

#[test]
fn events_of_silent_times_are_not_heard_later() {
    let (cluster, db) = own_cluster("notifier-silent", &[PRELOADED, ("pg_workflow.announce", "off")]);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    create_tasks(client, 3);
    assert_eq!(listener.ids(client), [0; 0]);
    let before = all_ids(client);
    set(&cluster, "announce", "events");
    let mut heard = Vec::new();
    wait_until("events", || {
        create_task(client);
        heard.extend(listener.ids(client));
        !heard.is_empty()
    });
    assert!(heard.iter().all(|id| !before.contains(id)), "{heard:?}");
    let mut once = heard.clone();
    once.dedup();
    assert_eq!(once, heard);
}

/// The notifier pauses before it sleeps, and must not sleep on a signal that came meanwhile.
#[test]
fn reload_during_a_pause_takes_effect_after_it() {
    let settings = [PRELOADED, ("pg_workflow.batch_delay", "1s"), ("pg_workflow.poll_interval", "60s")];
    let (cluster, db) = own_cluster("notifier-reload-pause", &settings);
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    create_task(client);
    listener.hear(2);
    // Without a listener the notifier has no rest to send, and ends at once.
    listener.0.batch_execute("UNLISTEN *").unwrap();
    let began = std::time::Instant::now();
    set(&cluster, "databases", "other");
    wait_until("no notifier", || pid(client).is_none());
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
}
