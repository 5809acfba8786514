//! The notifier while the clock of the server is set.

use super::{Listener, version_2, wait_for_notifier};
use pg_workflow_tests::*;
use std::path::Path;
use std::time::{Duration, Instant};
use xtask::stack::clock::Clock;
use xtask::stack::postgres::{FAST, PRELOADED, Postgres};

/// PostgreSQL restarts a worker a second after its end, by the clock: after an hour, if the clock was set back by one.
#[test]
fn notifier_is_replaced_after_the_clock_was_set_back() {
    let Some(clock) = Clock::start().unwrap() else { return eprintln!("skipped: libfaketime is not installed") };
    let cluster = Postgres::start_by_clock("notifier-clock", &[FAST, &[PRELOADED]].concat(), &clock).unwrap();
    cluster.psql("postgres", "CREATE DATABASE workflow").unwrap();
    cluster.psql("workflow", "CREATE EXTENSION pg_workflow").unwrap();
    let db = Db::at(cluster.url("workflow"));
    let client = &mut db.connect();
    let mut listener = Listener::start(&db);
    let task = create_task(client);
    listener.hear(2);
    let first = wait_for_notifier(client);
    client.execute("SELECT pg_terminate_backend($1)", &[&first]).unwrap();
    wait_until("the end of its process", || !Path::new(&format!("/proc/{first}")).exists());
    clock.set_ahead(-3600).unwrap();
    let is_behind = "SELECT clock_timestamp() < pg_postmaster_start_time()";
    assert!(client.query_one(is_behind, &[]).unwrap().get::<_, bool>(0), "the server has the clock");
    let began = Instant::now();
    start_task(client, task);
    assert_eq!(listener.hear(1), version_2(task));
    assert!(began.elapsed() < Duration::from_secs(20), "heard after {:?}", began.elapsed());
    assert_ne!(wait_for_notifier(client), first);
    assert_eq!(listener.hear_until_marker(&db), 0);
    let lag = "SELECT lag >= '0' FROM workflow.notifier";
    assert!(client.query_one(lag, &[]).unwrap().get::<_, bool>(0));
}
