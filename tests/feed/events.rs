//! The event feed, read by a consumer: all events, in order within an entity, for any order of commits.

use crate::feed::follow::current_position;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;
use xtask::stack::postgres::PRELOADED;

/// Calls read_events() once; returns id, entity and version of each event.
fn read(client: &mut impl postgres::GenericClient, max: i32) -> Vec<(i64, Uuid, i64)> {
    let rows = client.query("SELECT id, entity_id, version FROM workflow.read_events('reader', $1)", &[&max]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn ack(client: &mut impl postgres::GenericClient, id: i64) -> bool {
    client.query_one("SELECT workflow.ack_events('reader', $1)", &[&id]).unwrap().get(0)
}

/// Reads and acknowledges to the end.
fn drain(client: &mut Client, max: i32) -> Vec<(i64, Uuid, i64)> {
    let mut all = Vec::new();
    loop {
        let events = read(client, max);
        let Some((last, _, _)) = events.last() else { return all };
        assert!(ack(client, *last));
        all.extend(events);
    }
}

fn create_reader(client: &mut Client) {
    assert!(client.query_one("SELECT workflow.create_consumer('reader')", &[]).unwrap().get::<_, bool>(0));
}

#[test]
fn unacknowledged_events_are_redelivered() {
    let db = Db::new();
    let client = &mut db.connect();
    create_tasks(client, 2);
    create_reader(client);
    assert_eq!(read(client, 10), [], "it starts with events after its creation");
    let tasks = create_tasks(client, 9);
    let first = read(client, 3);
    assert_eq!(first.len(), 3);
    assert_eq!(read(client, 3), first);
    assert!(ack(client, first[1].0));
    assert!(!ack(client, first[1].0), "acknowledged before");
    assert!(!ack(client, first[0].0), "acknowledged together with a later one");
    assert_eq!(read(client, 1), first[2..]);
    let rest = drain(client, 2);
    assert_eq!(rest.len(), 8);
    assert_eq!(rest[7].1, tasks[8]);
    assert_eq!(read(client, 10), []);
    assert_eq!(db.connect().query("TABLE workflow.consumer_lag", &[]).unwrap()[0].get::<_, i64>("pending"), 0);
}

#[test]
fn consumer_from_the_beginning_reads_all_stored_events() {
    let db = Db::new();
    let client = &mut db.connect();
    create_tasks(client, 5);
    client.batch_execute("SELECT workflow.create_consumer('reader', true)").unwrap();
    assert_eq!(drain(client, 4).len(), 6);
    client.batch_execute("SELECT workflow.drop_consumer('reader')").unwrap();
}

#[test]
fn late_commit_is_delivered_late_and_not_lost() {
    let db = Db::new();
    let client = &mut db.connect();
    let late = &mut db.connect();
    let tasks = create_tasks(client, 3);
    create_reader(client);
    let mut transaction = late.transaction().unwrap();
    start_task(&mut transaction, tasks[0]);
    start_task(client, tasks[1]);
    let early = read(client, 10);
    assert_eq!(
        early.iter().map(|event| event.1).collect::<Vec<_>>(),
        [tasks[1]],
        "the open transaction hides no other event"
    );
    ack(client, early[0].0);
    assert_eq!(read(client, 10), []);
    Transition::of(tasks[1]).from(State::Running).to(State::Success).run(client).unwrap();
    assert_eq!(drain(client, 10).len(), 1);
    start_task(&mut transaction, tasks[2]);
    transaction.commit().unwrap();

    // The late ids are below and above the ids read so far.
    let lag = client.query_one("SELECT pending FROM workflow.consumer_lag", &[]).unwrap();
    assert_eq!(lag.get::<_, i64>(0), 2);
    let late = drain(client, 1);
    assert_eq!(late.iter().map(|event| event.1).collect::<Vec<_>>(), [tasks[0], tasks[2]]);
    assert!(late[0].0 < early[0].0 && late[1].0 > early[0].0);
}

#[test]
fn repeated_acknowledgement_skips_no_event() {
    let db = Db::new();
    let client = &mut db.connect();
    let late = &mut db.connect();
    let tasks = create_tasks(client, 2);
    create_reader(client);
    let mut transaction = late.transaction().unwrap();
    start_task(&mut transaction, tasks[0]);
    start_task(client, tasks[1]);
    let early = drain(client, 10);
    transaction.commit().unwrap();
    // The next window is read, and the last window is acknowledged once more.
    assert_eq!(read(client, 10)[0].1, tasks[0]);
    assert!(!ack(client, early[0].0));
    assert_eq!(read(client, 10)[0].1, tasks[0]);
    // Unread events cannot be acknowledged.
    create_tasks(client, 1);
    let unread: i64 = client.query_one("SELECT max(id) FROM workflow.state_history", &[]).unwrap().get(0);
    let failed = failure(client.query_one("SELECT workflow.ack_events('reader', $1)", &[&unread]));
    assert_eq!(failed.sqlstate, "22023");
}

#[test]
fn transaction_can_alternate_transitions_and_reads() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    create_reader(client);
    let mut transaction = client.transaction().unwrap();
    start_task(&mut transaction, tasks[0]);
    assert_eq!(read(&mut transaction, 10), [], "its own transitions are not committed yet");
    start_task(&mut db.connect(), tasks[1]);
    let events = read(&mut transaction, 10);
    assert_eq!(events.len(), 1);
    ack(&mut transaction, events[0].0);
    assert_eq!(read(&mut transaction, 10), []);
    start_task(&mut transaction, tasks[2]);
    transaction.commit().unwrap();
    assert_eq!(drain(client, 10).iter().map(|event| event.1).collect::<Vec<_>>(), [tasks[0], tasks[2]]);
}

#[test]
fn rollback_undoes_acknowledgement() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    create_tasks(client, 3);
    let mut transaction = client.transaction().unwrap();
    let events = read(&mut transaction, 10);
    let mut savepoint = transaction.savepoint("s").unwrap();
    ack(&mut savepoint, events[2].0);
    assert_eq!(read(&mut savepoint, 10), events[3..]);
    savepoint.rollback().unwrap();
    assert_eq!(read(&mut transaction, 10), events);
    ack(&mut transaction, events[2].0);
    transaction.rollback().unwrap();
    assert_eq!(read(client, 10), events);
}

#[test]
fn fixed_snapshot_loses_no_event() {
    let db = Db::new();
    let client = &mut db.connect();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        client.batch_execute("SELECT workflow.drop_consumer(name) FROM workflow.consumers").unwrap();
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute(&format!("SET TRANSACTION ISOLATION LEVEL {level}")).unwrap();
        transaction.query("SELECT FROM workflow.dags", &[]).unwrap();
        create_tasks(&mut db.connect(), 1);
        transaction.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
        assert_eq!(read(&mut transaction, 10), []);
        transaction.commit().unwrap();
        // The snapshot is older than these two events.
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute(&format!("SET TRANSACTION ISOLATION LEVEL {level}")).unwrap();
        transaction.query("SELECT FROM workflow.dags", &[]).unwrap();
        create_tasks(&mut db.connect(), 1);
        let events = read(&mut transaction, 10);
        assert_eq!(events.len(), 2);
        ack(&mut transaction, events[1].0);
        assert_eq!(read(&mut transaction, 10), []);
        transaction.commit().unwrap();
        assert_eq!(drain(client, 10).len(), 2);
    }
}

#[test]
fn position_is_relocated_by_ids_in_another_cluster() {
    relocate("system_identifier + 1", 1_000_000_000);
}

/// A copy of the cluster's files has its identifier. Its dump is restored in the original, which has assigned fewer IDs.
#[test]
fn position_is_relocated_by_ids_from_a_copy_of_the_cluster() {
    relocate("system_identifier + 1", 20_000);
}

/// As if the dump were loaded into the database that the cluster's files were copied with.
#[test]
fn position_is_relocated_by_ids_if_its_snapshot_is_ahead() {
    relocate("system_identifier", 1_000_000_000);
}

/// `ahead`: by how many transaction IDs the other cluster is ahead; if it is few, this one assigns as many.
fn relocate(system_identifier: &str, ahead: i64) {
    let db = Db::new();
    let client = &mut db.connect();
    let open = &mut db.connect();
    create_reader(client);
    let tasks = create_tasks(client, 2);
    // One transaction commits after the snapshot in the dump.
    let mut transaction = open.transaction().unwrap();
    start_task(&mut transaction, tasks[0]);
    create_tasks(client, 1);
    let read_before = drain(client, 10);
    assert_eq!(read_before.len(), 5);
    transaction.commit().unwrap();
    // As after a restore: the snapshots and the transaction IDs in the history are ahead of the cluster's.
    client
        .batch_execute(&format!(
            "UPDATE workflow.consumers SET system_identifier = {system_identifier}, snapshot = (
                 SELECT format('%s:%s:%s', pg_snapshot_xmin(snapshot)::text::bigint + {ahead},
                               pg_snapshot_xmax(snapshot)::text::bigint + {ahead},
                               (SELECT string_agg((x::text::bigint + {ahead})::text, ',') FROM pg_snapshot_xip(snapshot) x))::pg_snapshot);
             UPDATE workflow.state_history SET transaction_id = (transaction_id::text::bigint + {ahead})::text::xid8;",
        ))
        .unwrap();
    create_tasks(client, 1);
    for call in ["read_events('reader')", "consumer_has_events('reader')", "ack_events('reader', 1)"] {
        let error = client.query(&format!("SELECT workflow.{call}"), &[]).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "55000");
        assert!(error.hint().unwrap().contains("finish_copy()"), "{error:?}");
    }
    let pending: i64 = client.query_one("SELECT pending FROM workflow.consumer_lag", &[]).unwrap().get(0);
    assert_eq!(pending, 3, "also before finish_copy()");
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    if ahead < 30_000 {
        let pass = "DO $$ BEGIN FOR n IN 1..30000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$";
        client.batch_execute(pass).unwrap();
    }
    let unread: HashSet<i64> = client
        .query("SELECT id FROM workflow.state_history", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .filter(|id| read_before.iter().all(|event| event.0 != *id))
        .collect();
    assert_eq!(unread.len(), 3);
    let read_after: HashSet<i64> = drain(client, 2).iter().map(|event| event.0).collect();
    assert!(read_after.is_superset(&unread), "{unread:?} of {read_after:?}");
    create_tasks(client, 1);
    assert_eq!(drain(client, 10).len(), 2, "then it reads by transactions");
}

/// As after DELETE by mistake, beside transactions in progress.
#[test]
fn position_that_is_loaded_again_loses_no_event() {
    let db = Db::new();
    let (client, open) = (&mut db.connect(), &mut db.connect());
    create_reader(client);
    let tasks = create_tasks(client, 2);
    let mut transaction = open.transaction().unwrap();
    start_task(&mut transaction, tasks[0]);
    start_task(client, tasks[1]);
    let last = drain(client, 10).pop().unwrap();
    client
        .batch_execute(
            "CREATE TABLE dumped AS SELECT * FROM workflow.consumers;
             DELETE FROM workflow.consumers;
             INSERT INTO workflow.consumers SELECT * FROM dumped",
        )
        .unwrap();
    transaction.commit().unwrap();
    client.batch_execute("SELECT workflow.finish_copy()").unwrap();
    let rest = drain(client, 10);
    // The last event has a higher id than the late one.
    assert_eq!((rest.len(), rest[1].0), (2, last.0));
}

/// The difference between written and received events.
#[derive(Debug, PartialEq, Eq)]
pub struct Findings {
    pub lost: usize,
    pub twice: usize,
    pub disordered: usize,
}

pub fn compare(client: &mut Client, events: &[(i64, Uuid, i64)]) -> Findings {
    let written: HashSet<i64> =
        client.query("SELECT id FROM workflow.state_history", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let got: HashSet<i64> = events.iter().map(|event| event.0).collect();
    let mut last: HashMap<Uuid, i64> = HashMap::new();
    let in_order = |(_, id, version): &&(i64, Uuid, i64)| last.insert(*id, *version).unwrap_or(0) + 1 != *version;
    let disordered = events.iter().filter(in_order).count();
    Findings { lost: written.difference(&got).count(), twice: events.len() - got.len(), disordered }
}

/// Runs writers whose transactions overlap in every way, while `read` is called; the last call follows the last write.
pub fn while_others_write(db: &Db, mut read: impl FnMut() + Send) {
    const WRITERS: usize = 8;
    let tasks = create_tasks(&mut db.connect(), 40);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let tasks = &tasks;
                scope.spawn(move || {
                    let client = &mut db.connect();
                    for round in 0..150 {
                        let mut transaction = client.transaction().unwrap();
                        for i in 0..1 + (round + writer) % 4 {
                            // In the order of the ids, so that there is no deadlock.
                            let task = tasks[((round * 3 + writer) % 10) * 4 + i];
                            let sql = "UPDATE workflow.task_instances
                                       SET state = CASE state WHEN 'running' THEN 'retrying' ELSE 'running' END WHERE id = $1";
                            transaction.execute(sql, &[&task]).unwrap();
                        }
                        if round % 10 == writer { transaction.rollback().unwrap() } else { transaction.commit().unwrap() }
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                read();
            }
            read();
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Release);
        reader.join().unwrap();
    });
}

#[test]
fn consumer_gets_each_event_once_in_order_under_load() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('reader', true)").unwrap();
    let mut events = Vec::new();
    while_others_write(&db, || events.extend(drain(client, 50)));
    assert!(events.len() > 1000, "{}", events.len());
    assert_eq!(compare(client, &events), Findings { lost: 0, twice: 0, disordered: 0 });
}

#[test]
fn comparison_detects_losses_of_an_id_cursor() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut events: Vec<(i64, Uuid, i64)> = Vec::new();
    while_others_write(&db, || {
        let last = events.last().map_or(0, |event| event.0);
        let sql = "SELECT id, entity_id, version FROM workflow.state_history WHERE id > $1 ORDER BY id";
        events.extend(client.query(sql, &[&last]).unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))));
    });
    assert!(compare(client, &events).lost > 0, "the naive reader must lose events, or the test above proves nothing");
}

#[test]
fn open_transaction_stalls_no_consumer() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    let tasks = create_tasks(client, 1);
    let open = &mut db.connect();
    let mut transaction = open.transaction().unwrap();
    start_task(&mut transaction, tasks[0]);
    for _ in 0..20 {
        create_in_state(client, "task_instance", State::Running);
        assert!(drain(client, 100).len() >= 3);
    }
    transaction.commit().unwrap();
    assert_eq!(drain(client, 100).len(), 1);
}

#[test]
fn events_are_flushed_before_they_are_read() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    create_reader(client);
    let is_durable = || db.connect().query_one("SELECT workflow.is_durable()", &[]).unwrap().get::<_, bool>(0);
    assert!(is_durable(), "all transactions so far have waited for the disk");
    client.batch_execute("SET synchronous_commit = off").unwrap();
    start_task(client, task);
    let written: String = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).unwrap().get(0);
    assert!(!is_durable());
    assert_eq!(read(client, 10).len(), 1);
    let sql = "SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn, current_setting('synchronous_commit')";
    let row = client.query_one(sql, &[&written]).unwrap();
    assert!(row.get::<_, bool>(0), "the WAL was flushed");
    assert_eq!(row.get::<_, String>(1), "off");
    assert!(is_durable());
    // A rolled-back transaction does not stay undurable.
    let mut undone = client.transaction().unwrap();
    Transition::of(task).from(State::Running).to(State::Success).run(&mut undone).unwrap();
    undone.rollback().unwrap();
    assert!(is_durable());
}

/// A time limit, or another session, ends the wait for a standby. PostgreSQL only warns of it: a commit has happened.
#[test]
fn canceled_wait_for_standbys_delivers_no_event() {
    let (cluster, db) = own_cluster("events-unconfirmed", &[PRELOADED]);
    let client = &mut db.connect();
    create_reader(client);
    let position = current_position(client);
    let configure = |sql: &str| cluster.psql("postgres", &format!("{sql}; SELECT pg_reload_conf()")).unwrap();
    configure("ALTER SYSTEM SET synchronous_standby_names = 'absent'");
    wait_until("commits wait for a standby", || {
        let sql = "SET LOCAL statement_timeout = '100ms'; SELECT workflow.current_position()";
        db.connect().batch_execute(sql).is_err()
    });
    let client = &mut db.connect();
    client.batch_execute("SET synchronous_commit = local").unwrap();
    create_task(client);
    // As the relay: its own commits wait for nothing.
    client.batch_execute("SET synchronous_commit = off; SET statement_timeout = '100ms'").unwrap();
    let follow = format!("SELECT * FROM workflow.follow_events('{position}')");
    for sql in ["SELECT * FROM workflow.read_events('reader')", &follow, "SELECT workflow.current_position()"] {
        assert_eq!(failure(client.query(sql, &[])).sqlstate, "57014", "{sql}");
    }
    configure("ALTER SYSTEM RESET synchronous_standby_names");
    client.batch_execute("RESET statement_timeout").unwrap();
    assert_eq!(read(client, 10).len(), 2, "then they are delivered");
}

#[test]
fn skipping_an_event_waits_for_the_disk() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 2);
    create_reader(client);
    client.batch_execute("SET synchronous_commit = off").unwrap();
    for task in tasks {
        start_task(client, task);
    }
    let sql = "SELECT workflow.skip_event('reader', min(id)), workflow.is_durable()
               FROM workflow.state_history WHERE version = 2";
    assert!(client.query_one(sql, &[]).unwrap().get::<_, bool>(1), "the next read of the window does not wait");
    assert_eq!(read(client, 10).len(), 1);
}
