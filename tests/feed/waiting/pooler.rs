//! Waiting through a pooler in transaction mode, where each statement may run in another session.

use super::{SOON, WAIT_AS_CONSUMER, create_reader, drain, first_value, wait_at_position};
use pg_workflow_tests::*;
use postgres::{Client, NoTls};
use std::time::{Duration, Instant};
use xtask::stack::pooler::Pooler;
use xtask::stack::postgres::PRELOADED;

#[test]
fn procedures_wait_through_a_transaction_pooler() {
    let (cluster, db) = own_cluster("pooled", &[PRELOADED]);
    let Some(pooler) = Pooler::start(&cluster, 2).unwrap() else {
        return eprintln!("skipped: PgBouncer is not installed");
    };
    let client = &mut db.connect();
    create_reader(client);
    // Its statements go to two sessions in turn, so that none can remember what the other has read.
    let pooled = &mut Client::connect(&pooler.url("workflow"), NoTls).unwrap();
    let mut other = Client::connect(&pooler.url("workflow"), NoTls).unwrap();
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(first_value(pooled, "CALL workflow.wait_for_events('reader', '0.2 s')").unwrap(), "f");
        first_value(&mut other, "SELECT 1").unwrap();
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "five waits took {:?}", began.elapsed());
    for sql in [|_: &mut Client| WAIT_AS_CONSUMER.to_owned(), wait_at_position] {
        let sql = sql(client);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| first_value(pooled, &sql));
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'Extension' AND query LIKE 'CALL%'
                         AND backend_xmin IS NULL";
            wait_until("it waits", || client.query_one(waits, &[]).unwrap().get::<_, i64>(0) == 1);
            let began = Instant::now();
            create_task(client);
            assert_eq!(waiting.join().unwrap().unwrap(), "t", "{sql}");
            assert!(began.elapsed() < SOON, "{sql}");
        });
        drain(client);
    }
    let block = failure(pooled.batch_execute("BEGIN; CALL workflow.wait_for_events('reader', '1 s')"));
    assert_eq!(block.sqlstate, "25001");
}
