//! `read_events()` that waits: woken by a commit, and cancelable.

use pg_workflow_tests::*;
use postgres::Client;
use std::time::{Duration, Instant};

#[test]
fn commit_wakes_waiting_consumer() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let reader = &mut db.connect();
    reader.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    let read = "SELECT version FROM workflow.read_events('reader', 10, '60 s')";
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
        wait_until("the consumer waits", || client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 1);
        start_task(client, task);
        let (versions, took) = waiting.join().unwrap();
        assert_eq!(versions, [2]);
        assert!(took < Duration::from_secs(30), "the commit wakes it: {took:?}");
    });
}

#[test]
fn waiting_consumer_can_be_canceled_and_blocks_no_other() {
    let db = Db::new();
    let client = &mut db.connect();
    let reader = &mut db.connect();
    reader.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    let read = "SELECT version FROM workflow.read_events('reader', 10, '60 s')";
    let mut read_and_read_elsewhere = |reader: &mut Client| {
        assert_eq!(failure(reader.query(read, &[])).sqlstate, "57014");
        // Another session reads as the same consumer.
        client.query("SELECT FROM workflow.read_events('reader')", &[]).unwrap();
    };
    reader.batch_execute("SET statement_timeout = '100ms'").unwrap();
    read_and_read_elsewhere(reader);
    // Once: the next SET could itself take longer.
    reader.batch_execute("SET statement_timeout = '1ms'").unwrap();
    for _ in 0..100 {
        read_and_read_elsewhere(reader);
    }
}
