//! `finish_copy()`: consumers of another database are rejected until then, and then continue exactly.

use pg_workflow_tests::*;
use postgres::error::SqlState;
use postgres::{Client, GenericClient, IsolationLevel, NoTls};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use xtask::stack::postgres::PRELOADED;

/// As a restored dump has them.
const FOREIGN: &str = "UPDATE workflow.consumers SET system_identifier = system_identifier + 1";

const CONSUMERS: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn finish_copy_is_rejected_in_a_transaction_block() {
    let db = Db::new();
    let client = &mut db.connect();
    let last = "SELECT last_value FROM workflow.state_history_id_seq";
    create_task(client);
    let before: i64 = client.query_one(last, &[]).unwrap().get(0);
    for block in [
        "BEGIN; SELECT workflow.finish_copy()",
        "SELECT workflow.finish_copy(); SELECT 1",
        "BEGIN; DO $$ BEGIN PERFORM workflow.finish_copy(); END $$",
    ] {
        let told = failure(client.batch_execute(block));
        client.batch_execute("ROLLBACK").unwrap();
        assert_eq!(told.sqlstate, "25001", "{block}: {told:?}");
        assert!(!told.hint.is_empty(), "{block}: {told:?}");
    }
    assert_eq!(client.query_one(last, &[]).unwrap().get::<_, i64>(0), before, "no id has been skipped");
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    create_task(client);
}

fn ids(client: &mut impl GenericClient, sql: &str) -> Vec<i64> {
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn read(client: &mut impl GenericClient, max: i32) -> Vec<i64> {
    ids(client, &format!("SELECT id FROM workflow.read_events('a', {max})"))
}

/// Reads at most so many events, and acknowledges them.
fn consume(client: &mut Client, max: i32) -> Vec<i64> {
    let ids = read(client, max);
    client.query_one("SELECT workflow.ack_events('a', $1)", &[ids.last().unwrap()]).unwrap();
    ids
}

fn history(client: &mut Client) -> Vec<i64> {
    ids(client, "SELECT id FROM workflow.state_history ORDER BY id")
}

/// A consumer that reads from the beginning, and the events of so many tasks.
fn with_events(tasks: usize) -> Db {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('a', true)").unwrap();
    create_tasks(client, tasks);
    db
}

/// Has this event, or all, the transaction ID of another cluster: it is that of a transaction in progress here.
fn hold_transaction_id(db: &Db, events: &str) -> Client {
    let mut holder = db.connect();
    let id: String = {
        holder.batch_execute("BEGIN").unwrap();
        holder.query_one("SELECT pg_current_xact_id()::text", &[]).unwrap().get(0)
    };
    let sql = format!("UPDATE workflow.state_history SET transaction_id = '{id}' WHERE {events}");
    db.connect().batch_execute(&sql).unwrap();
    holder
}

/// pg_dump and pg_restore set row_security so: also before there are any rows.
#[test]
fn feed_of_a_restored_database_is_closed_until_finish_copy() {
    let db = Db::new();
    let client = &mut db.connect();
    client
        .batch_execute("DROP EXTENSION pg_workflow CASCADE; SET row_security = off; CREATE EXTENSION pg_workflow")
        .unwrap();
    client.batch_execute("SELECT workflow.disable_row_security(); RESET row_security").unwrap();
    create_task(client);
    client
        .batch_execute("INSERT INTO workflow.consumers (name, floor_id, system_identifier) VALUES ('a', 0, 0)")
        .unwrap();
    for sql in [
        "SELECT workflow.create_consumer('new')",
        "SELECT workflow.create_consumer('new', true)",
        "SELECT workflow.current_position()",
        "SELECT workflow.read_events('a')",
        "CALL workflow.wait_for_events('a', interval '0')",
    ] {
        let told = failure(client.batch_execute(sql));
        assert!(told.sqlstate == "55000" && told.hint.contains("finish_copy()"), "{sql}: {told:?}");
    }
    for _ in 0..2 {
        client.batch_execute("SELECT workflow.finish_copy(), workflow.create_consumer('new')").unwrap();
        assert_eq!(read(client, 10), history(client));
        client.batch_execute("SELECT workflow.drop_consumer('new')").unwrap();
    }
    let mark = "SELECT workflow.origin() > 0";
    assert!(client.query_one(mark, &[]).unwrap().get::<_, bool>(0));
}

/// Its rows of copies are those of the publisher.
#[test]
fn first_id_of_a_subscriber_is_not_below_that_of_its_publisher() {
    let db = with_events(3);
    let client = &mut db.connect();
    client.batch_execute("INSERT INTO workflow.copies (first_id) VALUES (3000000000000)").unwrap();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    create_tasks(client, 2);
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::ReadCommitted] {
        let mut reading = client.build_transaction().isolation_level(level).start().unwrap();
        assert_eq!(read(&mut reading, 100), history(&mut db.connect()));
        reading.commit().unwrap();
    }
}

#[test]
fn first_id_is_known_after_a_downgrade() {
    let db = with_events(3);
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    let sql = "SELECT first_id FROM workflow.copies";
    let before = ids(client, sql);
    assert_eq!(before.len(), 1);
    for version in ["0.2.0", "0.3.0"] {
        client.batch_execute(&format!("ALTER EXTENSION pg_workflow UPDATE TO '{version}'")).unwrap();
    }
    assert_eq!(ids(client, sql), before);
}

#[test]
fn finish_copy_never_sets_a_sequence_back() {
    let (db, before) = with_reader_after_rolled_back_ids();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    create_tasks(client, 8);
    assert_eq!([before, read(client, 100)].concat(), history(client));
}

/// The consumer has read to the end, after five ids of the new partition that no event has; and the events that it had.
fn with_reader_after_rolled_back_ids() -> (Db, Vec<i64>) {
    let db = with_events(2);
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    let mut undone = client.transaction().unwrap();
    let create = "SELECT workflow.create_dag_run(workflow.create_dag('dag ' || n)) FROM generate_series(1, 5) AS n";
    undone.batch_execute(create).unwrap();
    undone.rollback().unwrap();
    let before = consume(client, 100);
    assert!(read(client, 100).is_empty());
    (db, before)
}

/// As after logical replication, which copies no sequence.
#[test]
fn finish_copy_finds_positions_after_ids_that_were_rolled_back() {
    let (db, before) = with_reader_after_rolled_back_ids();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.save_checkpoint('a', '{1}')").unwrap();
    let copy = "SELECT setval('workflow.state_history_id_seq', 1, false); SELECT setval('workflow.task_logs_id_seq', 1, false)";
    client.batch_execute(&format!("{copy}; {FOREIGN}")).unwrap();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    create_tasks(client, 8);
    let rest = read(client, 100);
    assert_eq!([before, rest.clone()].concat(), history(client));
    client.batch_execute("SELECT workflow.rewind_consumer('a', '{1}')").unwrap();
    assert_eq!(read(client, 100), rest);
}

/// They can be there long before the history.
#[test]
fn restored_consumer_of_the_same_database_is_rejected_until_finish_copy() {
    let db = with_events(10);
    let client = &mut db.connect();
    let acknowledged = consume(client, 4);
    let restore = "CREATE TABLE public.saved AS TABLE workflow.consumers; DELETE FROM workflow.consumers;
        INSERT INTO workflow.consumers TABLE public.saved; DROP TABLE public.saved";
    for role in ["origin", "replica"] {
        client.batch_execute(&format!("SET session_replication_role = {role}; {restore}")).unwrap();
        client.batch_execute("RESET session_replication_role").unwrap();
        let told = failure(client.query("SELECT FROM workflow.read_events('a')", &[]));
        assert!(told.sqlstate == "55000" && told.hint.contains("finish_copy()"), "{told:?}");
    }
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    assert_eq!([acknowledged, read(client, 100)].concat(), history(client));
}

#[test]
fn transaction_ids_of_another_cluster_are_not_compared_after_finish_copy() {
    let db = with_events(20);
    let client = &mut db.connect();
    consume(client, 100);
    client.batch_execute(FOREIGN).unwrap();
    let _holder = hold_transaction_id(&db, "true");
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    assert!(read(client, 100).is_empty());
    create_tasks(client, 5);
    assert_eq!(consume(client, 100).len(), 6);
    let pending: i64 = client.query_one("SELECT pending FROM workflow.consumer_lag", &[]).unwrap().get(0);
    assert_eq!(pending, 0);
    let needs = "SELECT workflow.needs_history(workflow.position_of(c), 1000000000000) FROM workflow.consumers AS c";
    assert!(!client.query_one(needs, &[]).unwrap().get::<_, bool>(0));
    client.batch_execute(FOREIGN).unwrap();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    assert!(read(client, 100).is_empty(), "all was acknowledged in the order of reading");
}

#[test]
fn copy_of_a_copy_continues_in_the_middle_of_a_window() {
    let db = with_events(30);
    let client = &mut db.connect();
    // The other cluster is ahead.
    let ahead =
        "UPDATE workflow.state_history SET transaction_id = (transaction_id::text::bigint + 1000000000)::text::xid8";
    client.batch_execute(&format!("{FOREIGN}; {ahead}")).unwrap();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        acknowledged.append(&mut consume(client, 7));
        client.batch_execute(FOREIGN).unwrap();
        client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    }
    assert_eq!([acknowledged, read(client, 100)].concat(), history(client));
}

#[test]
fn first_window_after_finish_copy_is_in_order_at_every_isolation_level() {
    for level in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let db = with_events(0);
        let client = &mut db.connect();
        let task = create_task(client);
        start_task(client, task);
        let sql = "SELECT workflow.transition_task_instance($1, 'running', 'success')";
        client.query_one(sql, &[&task]).unwrap();
        let mut holder = hold_transaction_id(&db, "version = 2");
        client.batch_execute(FOREIGN).unwrap();
        client.batch_execute("SELECT workflow.finish_copy()").unwrap();
        let mut reading = client.build_transaction().isolation_level(level).start().unwrap();
        let got = read(&mut reading, 100);
        reading.batch_execute("SELECT workflow.create_consumer('new')").unwrap();
        let position: String = reading.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
        reading.commit().unwrap();
        assert_eq!(got, history(client), "{level:?}");
        holder.batch_execute("COMMIT").unwrap();
        assert!(ids(client, "SELECT id FROM workflow.read_events('new')").is_empty(), "{level:?}");
        let old = client.query("SELECT FROM workflow.follow_events($1)", &[&position]).unwrap();
        assert!(old.is_empty(), "{level:?}");
    }
}

#[test]
fn finish_copy_is_rejected_before_the_restore_is_complete() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SET default_transaction_isolation = 'repeatable read'").unwrap();
    let told = failure(client.batch_execute("SELECT workflow.finish_copy()"));
    assert_eq!((&*told.sqlstate, &told.detail["transaction_isolation"]), ("0A000", &"repeatable read".into()));
    client.batch_execute("RESET default_transaction_isolation").unwrap();
    let user = create_writer(client);
    // Anybody can call a session so.
    let mut other = Client::connect(&db.url_as(&user), NoTls).unwrap();
    other.batch_execute("SET application_name = 'pg_restore'").unwrap();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    let mut restore = db.connect();
    restore.batch_execute("SET application_name = 'pg_restore'").unwrap();
    let told = failure(client.batch_execute("SELECT workflow.finish_copy()"));
    assert_eq!((&*told.sqlstate, told.detail["pids"].as_array().unwrap().len()), ("55000", 1));
    drop(restore);
    wait_until("pg_restore has ended", || client.batch_execute("SELECT workflow.finish_copy()").is_ok());
}

/// Reads and acknowledges until told to stop, and then to the end; returns the ids of the events.
fn read_until(client: &mut Client, consumer: &str, stop: &AtomicBool, reads: &AtomicU64) -> Vec<i64> {
    let mut ids = Vec::new();
    loop {
        let stops = stop.load(Ordering::Relaxed);
        let mut reading = client.transaction().unwrap();
        let rows = reading.query("SELECT id FROM workflow.read_events($1, 5)", &[&consumer]);
        let done = rows.and_then(|rows| {
            let piece: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            if let Some(last) = piece.last() {
                reading.query_one("SELECT workflow.ack_events($1, $2)", &[&consumer, last])?;
            }
            reading.commit()?;
            Ok(piece)
        });
        match done {
            Ok(piece) if piece.is_empty() && stops => return ids,
            Ok(piece) => ids.extend(piece),
            // It is of another database.
            Err(error) => assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}"),
        }
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// As after a restore of a large database.
#[test]
fn finish_copy_does_not_wait_for_autovacuum() {
    let (_cluster, db) = own_cluster("autovacuum", &[PRELOADED, ("autovacuum", "on"), ("autovacuum_naptime", "1s")]);
    let client = &mut db.connect();
    let slow = "ALTER TABLE workflow.task_instances SET (
        autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_insert_threshold = 1)";
    client.batch_execute(slow).unwrap();
    create_tasks(client, 20_000);
    let sql = "SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE a.backend_type = 'autovacuum worker' AND l.relation = 'workflow.task_instances'::regclass)";
    wait_until("autovacuum", || client.query_one(sql, &[]).unwrap().get(0));
    client.batch_execute("SET lock_timeout = '20s'").unwrap();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
}

/// As pg_restore does by that option.
#[test]
fn finish_copy_enables_triggers_that_a_restore_has_disabled() {
    let db = with_events(10);
    let client = &mut db.connect();
    let acknowledged = consume(client, 4);
    for table in ["consumers", "row_security"] {
        let triggers = format!(
            "ALTER TABLE workflow.{table} DISABLE TRIGGER ALL; ALTER TABLE workflow.{table} ENABLE TRIGGER ALL"
        );
        client.batch_execute(&triggers).unwrap();
    }
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    let sql = "SELECT count(*) FROM pg_trigger WHERE tgname ~ '^(forget_origin|replan)' AND tgenabled = 'A'";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 3);
    assert_eq!([acknowledged, read(client, 100)].concat(), history(client));
}

#[test]
fn finish_copy_deadlocks_with_no_reader_or_writer() {
    let db = Db::new();
    let client = &mut db.connect();
    for consumer in CONSUMERS {
        client.execute("SELECT workflow.create_consumer($1, true)", &[&consumer]).unwrap();
    }
    let (stop_writer, stop, reads) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let read = std::thread::scope(|scope| {
        let _stops = SetOnDrop(&[&stop_writer, &stop]);
        let readers = CONSUMERS.map(|consumer| {
            let (mut reader, stop, reads) = (db.connect(), &stop, &reads);
            scope.spawn(move || read_until(&mut reader, consumer, stop, reads))
        });
        // In one transaction, as a program that starts.
        scope.spawn(|| {
            let starter = &mut db.connect();
            while !stop_writer.load(Ordering::Relaxed) {
                let mut starting = starter.transaction().unwrap();
                starting.batch_execute("SELECT workflow.create_consumer('new', true)").unwrap();
                starting.batch_execute("SELECT workflow.read_events('new', 5)").unwrap();
                starting.commit().unwrap();
                starter.batch_execute("SELECT workflow.drop_consumer('new')").unwrap();
            }
        });
        let writer = scope.spawn(|| {
            let writer = &mut db.connect();
            while !stop_writer.load(Ordering::Relaxed) {
                create_task(writer);
            }
        });
        for _ in 0..20 {
            client.batch_execute(FOREIGN).unwrap();
            client.batch_execute("SELECT workflow.finish_copy()").unwrap();
            let before = reads.load(Ordering::Relaxed);
            wait_until("all have read", || reads.load(Ordering::Relaxed) > before + 20);
        }
        stop_writer.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().unwrap())
    });
    let all = history(client);
    for mut ids in read {
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids, all);
    }
}
