//! Readers in each isolation level: what a read costs, and what they are told about partitions that were dropped.

use crate::feed::follow::{current_position, drain, follow};
use pg_workflow_tests::*;
use postgres::{Client, IsolationLevel, Transaction};
use std::fmt::Write;
use uuid::Uuid;
use xtask::stack::postgres::PRELOADED;

const LEVELS: [IsolationLevel; 3] =
    [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable];

fn begin(client: &mut Client, level: IsolationLevel) -> Transaction<'_> {
    client.build_transaction().isolation_level(level).start().unwrap()
}

/// Writes so many events of one task, with as few statements as possible.
fn write_events(client: &mut Client, count: i64) {
    let task = create_task(client);
    let sql =
        "INSERT INTO workflow.state_history (entity_type, entity_id, dag_id, dag_run_id, task_id, new_state, version)
               SELECT h.entity_type, gen_random_uuid(), h.dag_id, h.dag_run_id, h.task_id, h.new_state, 1
               FROM workflow.state_history AS h CROSS JOIN generate_series(1, $2::bigint) WHERE h.entity_id = $1";
    client.execute(sql, &[&task, &count]).unwrap();
}

/// Reads one event in a transaction of its own, acknowledges it, and returns the buffers of the read.
fn consume_one(client: &mut Client, level: IsolationLevel) -> i64 {
    let mut reading = begin(client, level);
    let read = buffers_in(&mut reading, "SELECT * FROM workflow.read_events('reader')");
    let ids = reading.query("SELECT id FROM workflow.read_events('reader')", &[]).unwrap();
    assert_eq!(ids.len(), 1);
    reading.query_one("SELECT workflow.ack_events('reader', $1)", &[&ids[0].get::<_, i64>(0)]).unwrap();
    assert!(reading.query("SELECT FROM workflow.read_events('reader')", &[]).unwrap().is_empty());
    reading.commit().unwrap();
    read
}

fn follow_one(client: &mut Client, level: IsolationLevel, position: &mut String) -> i64 {
    let mut reading = begin(client, level);
    let read = buffers_in(&mut reading, &format!("SELECT * FROM workflow.follow_events('{position}')"));
    let rows = reading.query("SELECT \"position\" FROM workflow.follow_events($1)", &[position]).unwrap();
    assert_eq!(rows.len(), 1);
    *position = rows[0].get(0);
    reading.commit().unwrap();
    read
}

#[test]
fn read_costs_the_same_in_every_isolation_level() {
    let mut report = String::new();
    for level in LEVELS {
        // A cluster without other tests: each transaction in progress anywhere in it costs a read a look.
        let (_cluster, db) = own_cluster("isolation", &[PRELOADED]);
        let db = db.without_verification();
        let (client, writer) = (&mut db.connect(), &mut db.connect());
        // All readers work at this level from the first call on.
        let mut creating = begin(client, level);
        creating.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
        let mut position: String = creating.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
        creating.commit().unwrap();
        let mut costs = Vec::new();
        for history in [1_000, 200_000] {
            write_events(writer, history);
            loop {
                let mut reading = begin(client, level);
                let sql = "SELECT max(id) FROM workflow.read_events('reader', 10000)";
                let last: Option<i64> = reading.query_one(sql, &[]).unwrap().get(0);
                let Some(last) = last else { break };
                reading.query_one("SELECT workflow.ack_events('reader', $1)", &[&last]).unwrap();
                reading.commit().unwrap();
            }
            loop {
                let mut reading = begin(client, level);
                let sql = "SELECT max(\"position\") FROM workflow.follow_events($1, 10000)";
                let next: Option<String> = reading.query_one(sql, &[&position]).unwrap().get(0);
                let Some(next) = next else { break };
                position = next;
                reading.commit().unwrap();
            }
            // The first reads fill caches.
            let mut cost = [i64::MAX; 2];
            for _ in 0..5 {
                write_events_one(writer);
                let read = [consume_one(client, level), follow_one(client, level, &mut position)];
                cost = [cost[0].min(read[0]), cost[1].min(read[1])];
            }
            costs.push(cost);
        }
        writeln!(report, "{level:?}: {costs:?}").unwrap();
        for (few, many) in costs[0].iter().zip(&costs[1]) {
            assert!(many * 5 <= few * 6 + 10, "consumer and follower: {report}");
        }
    }
    println!("buffers of a read, one event behind, at 1,000 and 200,000 rows:\n{report}");
}

fn write_events_one(client: &mut Client) {
    let sql = "SELECT entity_id FROM workflow.state_history WHERE task_id IS NULL AND version = 1 ORDER BY id LIMIT 1";
    let run: uuid::Uuid = client.query_one(sql, &[]).unwrap().get(0);
    let sql = "SELECT workflow.create_task_instances($1, ARRAY[gen_random_uuid()::text])";
    client.execute(sql, &[&run]).unwrap();
}

#[test]
fn old_snapshot_reads_no_more_while_others_write() {
    let db = Db::new().without_verification();
    let (client, writer) = (&mut db.connect(), &mut db.connect());
    create_task(writer);
    let read = "SELECT * FROM workflow.read_events('reader')";
    let mut costs = Vec::new();
    for transactions in [1, 500] {
        let mut reading = begin(client, IsolationLevel::RepeatableRead);
        reading.query("SELECT FROM workflow.dags", &[]).unwrap();
        for _ in 0..transactions {
            write_events_one(writer);
        }
        reading.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
        reading.query(read, &[]).unwrap();
        costs.push(buffers_in(&mut reading, read));
        reading.rollback().unwrap();
    }
    assert!(costs[1] < costs[0] + 100, "buffers of an empty read after 1 and 500 transactions: {costs:?}");
}

/// Also if few transactions have written since the snapshot.
#[test]
fn reads_after_one_with_an_old_snapshot_cost_the_same() {
    for transactions in [200, 3_000] {
        assert_reads_cost_the_same_after(transactions);
    }
}

fn assert_reads_cost_the_same_after(transactions: usize) {
    let db = Db::new().without_verification();
    let (client, writer) = (&mut db.connect(), &mut db.connect());
    create_task(writer);
    for reader in ["old", "usual"] {
        client.query_one("SELECT workflow.create_consumer($1)", &[&reader]).unwrap();
    }
    let mut position: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    write_events_one(writer);
    let mut reading = begin(client, IsolationLevel::RepeatableRead);
    reading.query("SELECT FROM workflow.dags", &[]).unwrap();
    for _ in 0..transactions {
        write_events_one(writer);
    }
    let read = "SELECT workflow.ack_events('old', id) FROM workflow.read_events('old', 1)";
    reading.query_one(read, &[]).unwrap();
    let follow = "SELECT \"position\" FROM workflow.follow_events($1, 1)";
    position = reading.query_one(follow, &[&position]).unwrap().get(0);
    reading.commit().unwrap();
    // Each opens the next window.
    for reader in ["old", "usual"] {
        client.query("SELECT * FROM workflow.read_events($1, 1)", &[&reader]).unwrap();
    }
    position = client.query_one(follow, &[&position]).unwrap().get(0);
    let costs = [
        buffers(client, "SELECT * FROM workflow.read_events('usual', 10)"),
        buffers(client, "SELECT * FROM workflow.read_events('old', 10)"),
        buffers(client, &format!("SELECT * FROM workflow.follow_events('{position}', 10)")),
    ];
    assert!(costs.iter().all(|cost| *cost < 2 * costs[0] + 20), "buffers of a read after {transactions}: {costs:?}");
}

#[test]
fn fixed_snapshot_is_told_of_a_dropped_partition() {
    let db = Db::new();
    let client = &mut db.connect();
    let before: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    create_finished_tasks(client, 3);
    age(client);
    open_partitions(client);
    create_task(client);
    let after: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    create_task(client);
    let mut sessions = [db.connect(), db.connect()];
    let mut transactions: Vec<_> =
        sessions.iter_mut().zip(&LEVELS[1..]).map(|(session, level)| begin(session, *level)).collect();
    for transaction in &mut transactions {
        transaction.query("SELECT FROM workflow.dags", &[]).unwrap();
    }
    wait_until("the partition is dropped", || {
        client
            .batch_execute("SELECT workflow.fold_state_counts(); SELECT workflow.purge(now() - interval '30 days')")
            .unwrap();
        let sql = "SELECT count(*) FROM workflow.dropped_partitions";
        client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 1
    });
    let follow = "SELECT id FROM workflow.follow_events($1)";
    for transaction in &mut transactions {
        assert_eq!(transaction.query(follow, &[&after]).unwrap().len(), 2, "later partitions are not concerned");
        for (sql, arguments) in [(follow, &[&before as _][..]), ("SELECT * FROM workflow.verify()", &[])] {
            let mut attempt = transaction.savepoint("attempt").unwrap();
            let told = failure(attempt.query(sql, arguments));
            assert_eq!((&*told.sqlstate, &told.detail["partition"]), ("40001", &"state_history_0".into()), "{told:?}");
        }
    }
    drop(transactions);
    let told = failure(client.query(follow, &[&before]));
    assert!(told.message.contains("have been purged"), "{}", told.message);
}

/// The transaction IDs of a restored history mean nothing here: most are beyond those of this cluster.
#[test]
fn restored_history_is_read_in_every_isolation_level() {
    for level in LEVELS {
        let db = Db::new().without_verification();
        let client = &mut db.connect();
        let first = create_task(client);
        let restore = "UPDATE workflow.state_history SET transaction_id = '4611686018427387904'";
        client.batch_execute(restore).unwrap();
        let mut reading = begin(client, level);
        reading.batch_execute("SELECT workflow.create_consumer('old', true), workflow.create_consumer('new')").unwrap();
        let position: String = reading.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
        let ids = reading.query("SELECT id FROM workflow.read_events('old')", &[]).unwrap();
        assert_eq!(ids.len(), 2, "{level:?}");
        reading.query_one("SELECT workflow.ack_events('old', $1)", &[&ids[1].get::<_, i64>(0)]).unwrap();
        reading.commit().unwrap();
        client.batch_execute("SELECT workflow.finish_copy()").unwrap();
        start_task(client, first);
        let mut reading = begin(client, level);
        for sql in [
            "SELECT new_state FROM workflow.read_events('old')".to_owned(),
            "SELECT new_state FROM workflow.read_events('new')".to_owned(),
            format!("SELECT new_state FROM workflow.follow_events('{position}')"),
        ] {
            let states = reading.query(&sql, &[]).unwrap();
            let states: Vec<&str> = states.iter().map(|row| row.get(0)).collect();
            assert_eq!(states, ["running"], "{level:?}: {sql}");
        }
        reading.commit().unwrap();
    }
}

#[test]
fn position_later_than_the_snapshot_is_to_be_retried() {
    let db = Db::new();
    let (client, writer) = (&mut db.connect(), &mut db.connect());
    for level in &LEVELS[1..] {
        let mut reading = begin(client, *level);
        reading.query("SELECT FROM workflow.dags", &[]).unwrap();
        create_task(writer);
        let position: String = writer.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
        let told = failure(reading.query("SELECT FROM workflow.follow_events($1)", &[&position]));
        assert_eq!(told.sqlstate, "40001", "{told:?}");
        reading.rollback().unwrap();
        assert!(client.query("SELECT FROM workflow.follow_events($1)", &[&position]).unwrap().is_empty());
    }
}

/// The transaction in the middle commits after the snapshot, and does not move the end of the snapshot.
#[test]
fn position_with_an_event_that_the_snapshot_lacks_is_retried() {
    let db = Db::new();
    let (client, writer, late) = (&mut db.connect(), &mut db.connect(), &mut db.connect());
    for level in &LEVELS[1..] {
        let tasks = create_tasks(writer, 3);
        let start = current_position(writer);
        start_task(writer, tasks[0]);
        let mut open = late.transaction().unwrap();
        start_task(&mut open, tasks[1]);
        start_task(writer, tasks[2]);
        let mut reading = begin(client, *level);
        reading.query("SELECT FROM workflow.dags", &[]).unwrap();
        open.commit().unwrap();
        // Within a window: before the late event, and after it.
        for read in [1, 2] {
            let mut position = start.clone();
            assert_eq!(follow(writer, &mut position, read).len(), read as usize);
            let mut attempt = reading.savepoint("attempt").unwrap();
            let told = failure(attempt.query("SELECT id FROM workflow.follow_events($1)", &[&position]));
            assert_eq!(told.sqlstate, "40001", "{told:?}");
            attempt.rollback().unwrap();
            let rest: Vec<Uuid> = drain(writer, &mut position, 10).iter().map(|event| event.1).collect();
            assert_eq!(rest, tasks[read as usize..]);
        }
    }
}

#[test]
fn old_snapshot_misses_no_event_of_an_earlier_partition() {
    let db = Db::new();
    let (client, writer) = (&mut db.connect(), &mut db.connect());
    create_task(writer);
    let mut reading = begin(client, IsolationLevel::RepeatableRead);
    reading.query("SELECT FROM workflow.dags", &[]).unwrap();
    create_task(writer);
    next_partition(writer);
    reading.batch_execute("SELECT workflow.create_dag_run(workflow.create_dag('own'))").unwrap();
    reading.batch_execute("SELECT workflow.create_consumer('new'), workflow.create_consumer('old', true)").unwrap();
    let position: String = reading.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    let first = "SELECT workflow.ack_events('old', max(id)), count(*) FROM workflow.read_events('old')";
    assert_eq!(reading.query_one(first, &[]).unwrap().get::<_, i64>(1), 2);
    reading.query("SELECT FROM workflow.read_events('old')", &[]).unwrap();
    reading.commit().unwrap();
    // Those of the second task, of the one that next_partition() creates, and of the transaction's own run.
    for sql in [
        "SELECT FROM workflow.read_events('new')".to_owned(),
        "SELECT FROM workflow.read_events('old')".to_owned(),
        format!("SELECT FROM workflow.follow_events('{position}')"),
    ] {
        assert_eq!(client.query(&sql, &[]).unwrap().len(), 5, "{sql}");
    }
}
