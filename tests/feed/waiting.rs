//! Waiting for events: in a procedure, which holds nothing meanwhile, and in the functions that read.

mod pooler;

use pg_workflow_tests::*;
use postgres::{Client, SimpleQueryMessage};
use std::time::{Duration, Instant};
use xtask::stack::postgres::PRELOADED;

const WAIT_AS_CONSUMER: &str = "CALL workflow.wait_for_events('reader', interval '60 s')";
/// Far below the time that the statements would wait, and far above a loaded machine's pauses.
const SOON: Duration = Duration::from_secs(20);

fn create_reader(client: &mut Client) {
    client.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
}

fn wait_at_position(client: &mut Client) -> String {
    let here: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    format!("CALL workflow.wait_for_events_after('{here}', interval '60 s')")
}

fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

/// Waits until this session waits on its latch.
fn wait_until_waiting(client: &mut Client, pid: i32) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'Extension'";
    wait_until("the session waits", || client.query_one(sql, &[&pid]).unwrap().get::<_, i64>(0) == 1);
}

/// Runs a statement in a session that waits in it, does `news` then, and returns the statement's first value.
fn woken_by(
    reader: &mut Client,
    sql: &str,
    client: &mut Client,
    news: impl FnOnce(&mut Client),
) -> Result<String, String> {
    let pid = pid(reader);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| first_value(reader, sql));
        wait_until_waiting(client, pid);
        let began = Instant::now();
        news(client);
        let value = waiting.join().unwrap();
        assert!(began.elapsed() < SOON, "{sql}: woke after {:?}", began.elapsed());
        value
    })
}

/// Returns a statement's first value, by the simple protocol; an empty text if it returns no row.
fn first_value(client: &mut Client, sql: &str) -> Result<String, String> {
    let messages = client.simple_query(sql).map_err(|error| failure_code(&error))?;
    let value = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    Ok(value.unwrap_or_default())
}

fn failure_code(error: &postgres::Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

#[test]
fn waiting_procedure_holds_no_snapshot_and_no_lock() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    for level in ["read committed", "repeatable read", "serializable"] {
        let reader = &mut db.connect();
        reader.batch_execute(&format!("SET default_transaction_isolation = '{level}'")).unwrap();
        let pid = pid(reader);
        for (sql, is_extended) in [
            (WAIT_AS_CONSUMER.to_owned(), true),
            (wait_at_position(client), true),
            (WAIT_AS_CONSUMER.to_owned(), false),
        ] {
            let task = create_task(client);
            drain(client);
            let sql = if sql.contains("_after") { wait_at_position(client) } else { sql };
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    if is_extended {
                        reader.query_one(&sql, &[]).unwrap().get::<_, bool>("has_events").to_string()
                    } else {
                        first_value(reader, &sql).unwrap()
                    }
                });
                wait_until_waiting(client, pid);
                let held = "SELECT a.backend_xmin IS NULL AND a.backend_xid IS NULL,
                                ARRAY(SELECT l.locktype FROM pg_locks AS l WHERE l.pid = a.pid AND l.locktype <> 'virtualxid')
                            FROM pg_stat_activity AS a WHERE a.pid = $1";
                let row = client.query_one(held, &[&pid]).unwrap();
                assert_eq!(
                    (row.get(0), row.get::<_, Vec<String>>(1)),
                    (true, vec![]),
                    "{level}, extended: {is_extended}, {sql}"
                );
                start_task(client, task);
                assert!(["true", "t"].contains(&&*waiting.join().unwrap()));
            });
        }
    }
}

/// Acknowledges everything.
fn drain(client: &mut Client) {
    let sql = "SELECT max(id) FROM workflow.read_events('reader')";
    while let Some(last) = client.query_one(sql, &[]).unwrap().get::<_, Option<i64>>(0) {
        client.query("SELECT workflow.ack_events('reader', $1)", &[&last]).unwrap();
    }
}

#[test]
fn waiting_procedure_returns_pending_events_at_once() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    let at_position = wait_at_position(client);
    assert_eq!(first_value(client, "CALL workflow.wait_for_events('reader', '0')").unwrap(), "f");
    let began = Instant::now();
    assert_eq!(first_value(client, "CALL workflow.wait_for_events('reader', '0.2 s')").unwrap(), "f");
    assert!(began.elapsed() >= Duration::from_millis(200));
    create_task(client);
    let began = Instant::now();
    assert_eq!(first_value(client, WAIT_AS_CONSUMER).unwrap(), "t");
    assert_eq!(first_value(client, &at_position).unwrap(), "t");
    // A window that has been opened, and not been acknowledged.
    client.query("SELECT FROM workflow.read_events('reader', 1)", &[]).unwrap();
    assert_eq!(first_value(client, WAIT_AS_CONSUMER).unwrap(), "t");
    assert!(began.elapsed() < SOON);
    drain(client);
    assert_eq!(first_value(client, "CALL workflow.wait_for_events('reader', '0')").unwrap(), "f");
}

#[test]
fn waiting_procedure_refuses_what_it_cannot_do() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    for (sql, code) in [
        ("BEGIN; CALL workflow.wait_for_events('reader', '1 s')", "25001"),
        ("SELECT 1; CALL workflow.wait_for_events('reader', '1 s')", "25001"),
        ("BEGIN; CALL workflow.wait_for_events_after('1', '1 s')", "25001"),
        ("CALL workflow.wait_for_events('reader', '-1 s')", "22023"),
        ("CALL workflow.wait_for_events('reader', NULL)", "22023"),
        ("CALL workflow.wait_for_events(NULL, '1 s')", "22023"),
        ("CALL workflow.wait_for_events('missing', '1 s')", "P0002"),
        ("CALL workflow.wait_for_events_after('nowhere', '1 s')", "22023"),
        ("CALL workflow.wait_for_events_after(NULL, '1 s')", "22023"),
    ] {
        assert_eq!(failure(client.batch_execute(sql)).sqlstate, code, "{sql}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    let other = create_writer(client);
    let stranger = &mut db.connect_as(&other);
    assert_eq!(failure(stranger.batch_execute(WAIT_AS_CONSUMER)).sqlstate, "42501");
    // The session continues after each of them.
    client.batch_execute("CALL workflow.wait_for_events('reader', '0')").unwrap();
}

/// A reader each: the procedure as a consumer and at a position, and the functions.
fn waits(client: &mut Client) -> Vec<String> {
    let at_position = wait_at_position(client);
    let follow = at_position.replace("CALL workflow.wait_for_events_after(", "SELECT id FROM workflow.follow_events(");
    let follow = follow.replace(", interval", ", 10, interval");
    let read = "SELECT id FROM workflow.read_events('reader', 10, '60 s')".to_owned();
    vec![WAIT_AS_CONSUMER.to_owned(), at_position, read, follow]
}

#[test]
fn prepared_commit_wakes_every_waiting_reader() {
    let (_cluster, db) = own_cluster("prepared", &[PRELOADED, ("max_prepared_transactions", "5")]);
    let client = &mut db.connect();
    create_reader(client);
    let reader = &mut db.connect();
    for n in 0..4 {
        let task = create_task(client);
        drain(client);
        let sql = waits(client).swap_remove(n);
        let mut writer = db.connect();
        writer.batch_execute("BEGIN").unwrap();
        start_task(&mut writer, task);
        writer.batch_execute("PREPARE TRANSACTION 'move'").unwrap();
        let value = woken_by(reader, &sql, client, |client| client.batch_execute("COMMIT PREPARED 'move'").unwrap());
        assert!(!["", "f"].contains(&&*value.unwrap()), "{sql}");
    }
    // It does not just look again after a while.
    let task = create_task(client);
    client.batch_execute("BEGIN").unwrap();
    start_task(client, task);
    client.batch_execute("PREPARE TRANSACTION 'move'").unwrap();
    let before = commits(client);
    client.batch_execute("COMMIT PREPARED 'move'").unwrap();
    assert_eq!(commits(client), before + 1);
}

/// How many commits have woken the database's waiting readers.
fn commits(client: &mut Client) -> i64 {
    client.query_one("SELECT workflow.commits()", &[]).unwrap().get(0)
}

#[test]
fn rewind_and_drop_wake_waiting_readers() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    client.batch_execute("SELECT workflow.save_checkpoint('reader', '{0}')").unwrap();
    create_task(client);
    drain(client);
    let reader = &mut db.connect();
    for sql in [WAIT_AS_CONSUMER, "SELECT id FROM workflow.read_events('reader', 10, '60 s')"] {
        let before = commits(client);
        let value = woken_by(reader, sql, client, |client| {
            client.batch_execute("SELECT workflow.rewind_consumer('reader', '{0}')").unwrap();
        });
        assert!(!["", "f"].contains(&&*value.unwrap()), "{sql}");
        assert_eq!(commits(client), before + 1);
        drain(client);
    }
    for sql in [WAIT_AS_CONSUMER, "SELECT id FROM workflow.read_events('reader', 10, '60 s')"] {
        let before = commits(client);
        let value = woken_by(reader, sql, client, |client| {
            client.batch_execute("SELECT workflow.drop_consumer('reader')").unwrap();
        });
        assert_eq!((value, commits(client)), (Err("P0002".to_owned()), before + 1), "{sql}");
        create_reader(client);
    }
}

#[test]
fn session_waits_for_each_of_two_consumers_in_turn() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer(name) FROM unnest('{a,b}'::text[]) AS name").unwrap();
    let began = Instant::now();
    for n in 0..10 {
        let sql = format!("SELECT FROM workflow.read_events('{}', 10, '0.1 s')", ["a", "b"][n % 2]);
        assert!(client.query(&sql, &[]).unwrap().is_empty());
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "ten waits took {:?}", began.elapsed());
}

#[test]
fn pending_notification_ends_no_wait() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    client.batch_execute("LISTEN anything").unwrap();
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("SELECT").unwrap();
    db.connect().batch_execute("NOTIFY anything").unwrap();
    let began = Instant::now();
    for _ in 0..5 {
        let sql = "SELECT FROM workflow.read_events('reader', 10, '0.2 s')";
        assert!(transaction.query(sql, &[]).unwrap().is_empty());
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "five waits took {:?}", began.elapsed());
}

#[test]
fn own_events_end_no_wait() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    create_task(client);
    // The window stays open.
    client.batch_execute("SELECT workflow.ack_events('reader', max(id)) FROM workflow.read_events('reader')").unwrap();
    for isolation in ["READ COMMITTED", "REPEATABLE READ"] {
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}")).unwrap();
        create_task(client);
        client.batch_execute("SAVEPOINT here").unwrap();
        create_task(client);
        let began = Instant::now();
        assert!(client.query("SELECT FROM workflow.read_events('reader', 10, '0.5 s')", &[]).unwrap().is_empty());
        assert!(began.elapsed() >= Duration::from_millis(500), "{isolation}: it waited {:?}", began.elapsed());
        client.batch_execute("ROLLBACK").unwrap();
    }
}

/// The events of a late commit have low ids: those above them can be acknowledged.
#[test]
fn acknowledged_events_above_a_late_one_end_no_wait() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    let mut late = db.connect();
    let mut late = late.transaction().unwrap();
    let task = "SELECT workflow.create_task_instances(workflow.create_dag_run(workflow.create_dag('late')), '{late}')";
    late.query(task, &[]).unwrap();
    create_tasks(client, 4);
    let ack = "SELECT workflow.ack_events('reader', max(id)) FROM workflow.read_events('reader')";
    client.batch_execute(ack).unwrap();
    late.commit().unwrap();
    client.batch_execute(ack).unwrap();
    let wait = "CALL workflow.wait_for_events('reader', '0.3 s')";
    for _ in 0..2 {
        assert!(!client.query_one(wait, &[]).unwrap().get::<_, bool>(0), "all is acknowledged");
    }
    // A read without events would end the window.
    let mut transaction = client.transaction().unwrap();
    let began = Instant::now();
    assert!(transaction.query("SELECT FROM workflow.read_events('reader', 10, '0.5 s')", &[]).unwrap().is_empty());
    assert!(began.elapsed() >= Duration::from_millis(500), "it waited {:?}", began.elapsed());
    transaction.rollback().unwrap();
    create_task(client);
    assert!(client.query_one(wait, &[]).unwrap().get::<_, bool>(0));
}

#[test]
fn transaction_in_progress_makes_the_rest_of_a_window_no_dearer() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    create_tasks(client, 50);
    client.query("SELECT FROM workflow.read_events('reader', 10)", &[]).unwrap();
    let question = "SELECT workflow.consumer_has_events('reader')";
    let before = buffers(client, question);
    let mut other = db.connect();
    let mut other = other.transaction().unwrap();
    let tasks = "SELECT workflow.create_task_instances(workflow.create_dag_run(workflow.create_dag('other')), array_agg(n::text))
                 FROM generate_series(1, 20000) AS n";
    other.query(tasks, &[]).unwrap();
    let beside = buffers(client, question);
    assert!(beside <= before + 10, "{before} buffers, then {beside}");
}

#[test]
fn rolled_back_acknowledgement_is_read_without_a_wait() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    create_tasks(client, 4);
    let read = "SELECT id FROM workflow.read_events('reader', 10, '60 s')";
    let began = Instant::now();
    let mut transaction = client.transaction().unwrap();
    let events = transaction.query(read, &[]).unwrap();
    transaction.query("SELECT workflow.ack_events('reader', $1)", &[&events[4].get::<_, i64>(0)]).unwrap();
    assert!(transaction.query("SELECT FROM workflow.read_events('reader')", &[]).unwrap().is_empty());
    transaction.rollback().unwrap();
    assert_eq!(client.query(read, &[]).unwrap().len(), 5);
    assert!(began.elapsed() < SOON);
}

#[test]
fn fixed_snapshot_ends_the_wait_with_the_next_commit() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    let reader = &mut db.connect();
    for n in [2, 3] {
        let sql = &waits(client).swap_remove(n);
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM workflow.dags").unwrap();
        let value = woken_by(reader, sql, client, |client| _ = create_task(client));
        assert_eq!(value.unwrap(), "", "its snapshot is older");
        reader.batch_execute("COMMIT").unwrap();
        assert!(!reader.query(sql, &[]).unwrap().is_empty());
    }
}

#[test]
fn crash_ends_the_wait_and_the_next_one_finds_events() {
    let (cluster, db) = own_cluster("wait-crash", &[PRELOADED]);
    let client = &mut db.connect();
    create_reader(client);
    let waits = waits(client);
    let mut readers: Vec<Client> = waits.iter().map(|_| db.connect()).collect();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = readers
            .iter_mut()
            .zip(&waits)
            .map(|(reader, sql)| {
                let pid = pid(reader);
                let waiting = scope.spawn(|| first_value(reader, sql));
                wait_until_waiting(client, pid);
                waiting
            })
            .collect();
        cluster.kill().unwrap();
        assert!(waiting.into_iter().all(|reader| reader.join().unwrap().is_err()));
    });
    cluster.start_again().unwrap();
    let client = &mut db.connect();
    create_task(client);
    for sql in waits {
        assert!(!["", "f"].contains(&&*first_value(client, &sql).unwrap()), "{sql}");
    }
}

#[test]
fn sessions_beyond_the_slots_wake_too() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    let task = create_task(client);
    drain(client);
    let mut readers: Vec<Client> = (0..40).map(|_| db.connect()).collect();
    std::thread::scope(|scope| {
        let waiting: Vec<_> =
            readers.iter_mut().map(|reader| scope.spawn(|| first_value(reader, WAIT_AS_CONSUMER))).collect();
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event = 'Extension' AND query LIKE 'CALL%' AND datname = current_database()";
        wait_until("all wait", || client.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 40);
        let began = Instant::now();
        start_task(client, task);
        for reader in waiting {
            assert_eq!(reader.join().unwrap().unwrap(), "t");
        }
        assert!(began.elapsed() < SOON);
    });
}

#[test]
fn waiting_reader_looks_again_without_preloading() {
    let (_cluster, db) = own_cluster("not-preloaded", &[]);
    let client = &mut db.connect();
    create_reader(client);
    let reader = &mut db.connect();
    for n in 0..4 {
        drain(client);
        let sql = waits(client).swap_remove(n);
        let value = woken_by(reader, &sql, client, |client| _ = create_task(client));
        assert!(!["", "f"].contains(&&*value.unwrap()), "{sql}");
    }
}

#[test]
fn canceled_waits_leave_no_slot_behind() {
    let db = Db::new();
    let client = &mut db.connect();
    create_reader(client);
    let reader = &mut db.connect();
    reader.batch_execute("SET statement_timeout = '20 ms'").unwrap();
    for _ in 0..40 {
        assert_eq!(failure(reader.batch_execute(WAIT_AS_CONSUMER)).sqlstate, "57014");
    }
    for _ in 0..3 {
        let mut ended = db.connect();
        let pid = pid(&mut ended);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ended.batch_execute(WAIT_AS_CONSUMER).is_err());
            wait_until_waiting(client, pid);
            client.query("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
            assert!(waiting.join().unwrap());
        });
    }
    reader.batch_execute("RESET statement_timeout").unwrap();
    let value = woken_by(reader, WAIT_AS_CONSUMER, client, |client| _ = create_task(client));
    assert_eq!(value.unwrap(), "t");
}
