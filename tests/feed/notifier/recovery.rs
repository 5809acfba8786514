//! The notifier after kills, errors, restarts and promotion.

use super::{Listener, pid, version_2, wait_for_notifier};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_workflow_tests::*;
use postgres::{Client, NoTls};
use std::process::Command;
use std::time::{Duration, Instant};
use xtask::stack::postgres::{PRELOADED, Shutdown};
use xtask::stack::process::clean_environment;

/// If one process is killed, PostgreSQL restarts all of them with new shared memory.
#[test]
fn notifier_restarts_after_kill_of_any_process() {
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

/// As with NOTIFY itself. The process that writes the log is stopped, and then killed.
#[test]
fn listener_can_hear_of_an_asynchronous_commit_that_a_crash_undoes() {
    let (cluster, db) = own_cluster("notifier-undone", &[PRELOADED]);
    // Another process can write the log just then: the commit is not lost, and the next crash is tried.
    loop {
        let client = &mut db.connect();
        let task = create_task(client);
        let mut listener = Listener::start(&db);
        let writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
        let writer = Pid::from_raw(client.query_one(writer, &[]).unwrap().get(0));
        kill(writer, Signal::SIGSTOP).unwrap();
        client.batch_execute("SET synchronous_commit = off").unwrap();
        start_task(client, task);
        assert_eq!(listener.hear(1), version_2(task));
        kill(writer, Signal::SIGKILL).unwrap();
        cluster.wait_recovered().unwrap();
        let state = "SELECT state FROM workflow.task_instances WHERE id = $1";
        if db.connect().query_one(state, &[&task]).unwrap().get::<_, &str>(0) == "queued" {
            return;
        }
    }
}

#[test]
fn terminated_notifier_restarts_and_repeats_nothing() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let task = create_task(client);
    listener.hear(2);
    let first = wait_for_notifier(client);
    client.execute("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
    wait_until("the end of the notifier", || pid(client).is_none());
    start_task(client, task);
    assert_eq!(listener.hear(1), version_2(task));
    assert_ne!(wait_for_notifier(client), first);
    assert_eq!(listener.hear_until_marker(&db), 0);
}

#[test]
fn notifier_shows_its_error_and_retries_with_pauses() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let task = create_task(client);
    listener.hear(2);
    client.batch_execute("ALTER FUNCTION workflow.events_between RENAME TO hidden").unwrap();
    start_task(client, task);
    let errors = "SELECT errors, last_error, last_error_at > started_at FROM workflow.notifier";
    let began = Instant::now();
    wait_until("errors", || client.query_one(errors, &[]).unwrap().get::<_, i64>(0) >= 2);
    assert!(began.elapsed() >= Duration::from_millis(900), "the second attempt comes after a pause");
    let row = client.query_one(errors, &[]).unwrap();
    assert!(row.get::<_, String>(1).contains("events_between"));
    assert!(row.get::<_, i64>(0) < 4 && row.get::<_, bool>(2));
    client.batch_execute("ALTER FUNCTION workflow.hidden RENAME TO events_between").unwrap();
    assert_eq!(listener.hear(1), version_2(task), "no event is lost");
}

#[test]
fn notifier_does_not_delay_server_stop() {
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
fn promoted_standby_starts_a_notifier() {
    let (primary, db) = own_cluster("notifier-promoted", &[PRELOADED]);
    let standby = primary.standby("notifier-promoted").unwrap();
    primary.wait_for_standby().unwrap();
    let task = create_task(&mut db.connect());
    let promoted = Db::at(standby.url("workflow"));
    // A standby rejects LISTEN with PostgreSQL's own error.
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
fn notifier_waiting_for_a_lock_does_not_delay_server_stop() {
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
    wait_until("the notifier waits for the lock", || client.query_one(waits, &[]).unwrap().get::<_, i64>(0) == 1);
    let began = Instant::now();
    cluster.stop(Shutdown::Fast).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    cluster.start_again().unwrap();
}

#[test]
fn listener_hears_nothing_of_restored_events() {
    let (cluster, db) = own_cluster("notifier-restore", &[PRELOADED]);
    create_finished_tasks(&mut db.connect(), 20);
    let mut dump = Command::new(cluster.install().program("pg_dump"));
    clean_environment(&mut dump);
    let dumped = dump.args(["--dbname", db.url()]).output().unwrap();
    assert!(dumped.status.success());

    let restored = Db::at(cluster.create_database("restored").unwrap());
    let mut early = Listener::start(&restored);
    cluster.psql("restored", &String::from_utf8(dumped.stdout).unwrap()).unwrap();
    cluster.psql("restored", "SELECT workflow.finish_copy()").unwrap();
    let mut late = Listener::start(&restored);
    let task = create_task(&mut restored.connect());
    for listener in [&mut early, &mut late] {
        assert_eq!(listener.hear(2)[1], (task.to_string(), 1));
    }
    assert_eq!(early.hear_until_marker(&restored), 0);
    // The marker of the other one.
    assert_eq!(late.hear_until_marker(&restored), 1);
}
