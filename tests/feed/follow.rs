//! Following the feed from a position that the follower stores.

use crate::feed::events::{Findings, compare, while_others_write};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::{Client, GenericClient};
use std::time::{Duration, Instant};
use uuid::Uuid;
use xtask::stack::postgres::PRELOADED;

const FOLLOW: &str = "SELECT id, entity_id, version, position FROM workflow.follow_events($1, $2)";

pub fn current_position(client: &mut impl GenericClient) -> String {
    client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0)
}

/// Reads the next events (id, entity, version), and moves the position past them.
pub fn follow(client: &mut impl GenericClient, position: &mut String, max: i32) -> Vec<(i64, Uuid, i64)> {
    let rows = client.query(FOLLOW, &[position, &max]).unwrap();
    assert!(rows.len() <= usize::try_from(max).unwrap());
    let Some((last, others)) = rows.split_last() else { return Vec::new() };
    assert!(others.iter().all(|row| row.get::<_, Option<String>>(3).is_none()), "only the last row has a position");
    *position = last.get(3);
    let is_safe = |byte: u8| byte.is_ascii_graphic() && byte != b',' && byte != b'"';
    assert!(position.bytes().all(is_safe), "it must fit into an HTTP header: {position}");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// Follows to the end.
pub fn drain(client: &mut impl GenericClient, position: &mut String, max: i32) -> Vec<(i64, Uuid, i64)> {
    let mut all = Vec::new();
    loop {
        let events = follow(client, position, max);
        if events.is_empty() {
            return all;
        }
        all.extend(events);
    }
}

fn entities(events: &[(i64, Uuid, i64)]) -> Vec<Uuid> {
    events.iter().map(|event| event.1).collect()
}

#[test]
fn follower_gets_each_event_once_in_order_across_sessions() {
    let db = Db::new();
    let mut sessions = [db.connect(), db.connect(), db.connect()];
    let mut position = current_position(&mut sessions[0]);
    let mut events = Vec::new();
    while_others_write(&db, || {
        for session in &mut sessions {
            events.extend(drain(session, &mut position, 7));
        }
    });
    assert!(events.len() > 1000, "{}", events.len());
    assert_eq!(compare(&mut db.connect(), &events), Findings { lost: 0, twice: 0, disordered: 0 });
}

#[test]
fn late_commit_is_delivered_late_and_not_lost() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 30);
    let late = &mut db.connect();
    let mut open = late.transaction().unwrap();
    start_task(&mut open, tasks[0]);
    let position = &mut current_position(client);
    for task in &tasks[1..20] {
        start_task(client, *task);
    }
    start_task(&mut open, tasks[20]);
    // The commit falls between two batches of a window that does not include it.
    let mut early = follow(client, position, 7);
    open.commit().unwrap();
    start_task(client, tasks[21]);
    early.extend(follow(client, position, 7));
    early.extend(follow(client, position, 5));
    assert_eq!(entities(&early), tasks[1..20]);
    assert_eq!(entities(&drain(client, position, 1)), [tasks[0], tasks[20], tasks[21]]);
}

#[test]
fn position_can_be_reused() {
    let db = Db::new();
    let client = &mut db.connect();
    let start = current_position(client);
    let tasks = create_tasks(client, 20);
    let mut first = start.clone();
    let events = drain(client, &mut first, 6);
    assert_eq!(entities(&events)[1..], tasks);
    for max in [1, 7, 21, i32::MAX] {
        let mut again = start.clone();
        assert_eq!(drain(client, &mut again, max), events);
        assert_eq!(drain(client, &mut again, max), []);
    }
    // Without new events the position stays, and later events follow it.
    let task = create_task(client);
    assert_eq!(entities(&drain(client, &mut first, 1))[1..], [task]);
}

#[test]
fn read_only_transaction_can_follow() {
    let db = Db::new();
    create_task(&mut db.connect());
    let client = &mut db.connect();
    client.batch_execute("SET default_transaction_read_only = on").unwrap();
    let mut position = current_position(client);
    let task = create_task(&mut db.connect());
    assert_eq!(entities(&drain(client, &mut position, 1))[1..], [task]);
    let mut transaction = client.transaction().unwrap();
    drain(&mut transaction, &mut position, 10);
    let sql = "SELECT pg_current_xact_id_if_assigned()::text";
    assert_eq!(transaction.query_one(sql, &[]).unwrap().get::<_, Option<String>>(0), None, "following writes nothing");
}

#[test]
fn transaction_can_alternate_transitions_and_following() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    let mut transaction = client.transaction().unwrap();
    start_task(&mut transaction, tasks[0]);
    let mut position = current_position(&mut transaction);
    start_task(&mut db.connect(), tasks[1]);
    assert_eq!(entities(&drain(&mut transaction, &mut position, 10)), [tasks[1]]);
    start_task(&mut transaction, tasks[2]);
    transaction.commit().unwrap();
    assert_eq!(entities(&drain(client, &mut position, 10)), [tasks[0], tasks[2]]);
}

#[test]
fn fixed_snapshot_loses_no_event() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut transaction =
        client.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start().unwrap();
    transaction.query("SELECT FROM workflow.dags", &[]).unwrap();
    let tasks = create_tasks(&mut db.connect(), 9);
    let mut position = current_position(&mut transaction);
    assert_eq!(drain(&mut transaction, &mut position, 10), []);
    transaction.commit().unwrap();
    assert_eq!(entities(&drain(client, &mut position, 2))[1..], tasks);
}

/// Replaces one part of a position.
fn with_part(position: &str, part: usize, value: &str) -> String {
    let mut parts: Vec<&str> = position.split('.').collect();
    parts[part] = value;
    parts.join(".")
}

#[test]
fn position_is_relocated_by_ids_in_another_cluster() {
    let db = Db::new();
    let client = &mut db.connect();
    let open = &mut db.connect();
    let tasks = create_tasks(client, 12);
    let mut position = current_position(client);
    let mut late = open.transaction().unwrap();
    start_task(&mut late, tasks[0]);
    for task in &tasks[1..12] {
        start_task(client, *task);
    }
    // In the middle of a window.
    let seen = entities(&follow(client, &mut position, 4));
    late.commit().unwrap();
    let mut relocated = with_part(&position, 1, "1");
    let found = entities(&drain(client, &mut relocated, 3));
    assert!(tasks.iter().all(|task| seen.contains(task) || found.contains(task)), "{found:?}");
    let task = create_task(client);
    assert_eq!(entities(&drain(client, &mut relocated, 3))[1..], [task], "then it follows by transactions");
    // A position ahead of the database, which was recovered to an earlier time.
    let ahead = with_part(&position, 7, "123456789");
    let failed = failure(client.query(FOLLOW, &[&ahead, &7]));
    assert_eq!(failed.sqlstate, "22023");
    assert!(failed.message.ends_with("ahead of this database"), "{}", failed.message);
}

#[test]
fn malformed_position_is_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    let late = &mut db.connect();
    let mut open = late.transaction().unwrap();
    let tasks = create_tasks(client, 5);
    start_task(&mut open, tasks[0]);
    let mut position = current_position(client);
    create_tasks(client, 5);
    follow(client, &mut position, 2);
    assert_eq!(position.split('.').count(), 13, "in a window: {position}");
    let mut reject = |malformed: &str| {
        let failed = failure(client.query(FOLLOW, &[&malformed, &7]));
        assert_eq!(
            (failed.sqlstate.as_str(), &failed.detail["argument"]),
            ("22023", &"position".into()),
            "{malformed}"
        );
        assert!(!failed.hint.is_empty());
    };
    ["", " ", "1", "now", "1.......", "1..........", "'", "1.é"].into_iter().for_each(&mut reject);
    reject(&position.replacen('2', "1", 1));
    reject(&position.replacen('2', "3", 1));
    reject(&format!("{position}.1"));
    reject(&format!("{position} "));
    reject(&"9".repeat(100_000));
    for part in 0..13 {
        for wrong in ["-1", "1:", ":", "0:0", "5:3:9", "99999999999999999999", "x", "1,2", "9223372036854775807:1"] {
            reject(&with_part(&position, part, wrong));
        }
    }

    // Each mutated position is either rejected or followed.
    let mut random = fastrand::Rng::with_seed(7);
    let mut rejected = 0;
    for _ in 0..2000 {
        let mut bytes = position.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] = *random.choice(b"0123456789.:").unwrap(),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.u8(b' '..=b'~')),
            }
        }
        let mutated = String::from_utf8(bytes).unwrap();
        if let Err(error) = client.query(FOLLOW, &[&mutated, &7]) {
            assert_eq!(error.code().map(|code| code.code()), Some("22023"), "{mutated}: {error:?}");
            rejected += 1;
        }
    }
    assert!((200..2000).contains(&rejected), "{rejected}");
    open.rollback().unwrap();
}

#[test]
fn commit_wakes_waiting_follower() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let position = current_position(client);
    let follower = &mut db.connect();
    let sql = "SELECT version FROM workflow.follow_events($1, 10, '60 s')";
    std::thread::scope(|scope| {
        // The first read of the session.
        let waiting = scope.spawn(|| {
            let began = Instant::now();
            let rows = follower.query(sql, &[&position]).unwrap();
            (rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), began.elapsed())
        });
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE wait_event = 'Extension' AND query LIKE '%follow_events%'
                         AND datname = current_database() AND pid <> pg_backend_pid()";
        wait_until("the follower waits", || client.query_one(waits, &[]).unwrap().get::<_, i64>(0) == 1);
        let moved = Instant::now();
        start_task(client, task);
        let (versions, took) = waiting.join().unwrap();
        assert_eq!(versions, [2]);
        assert!(moved.elapsed() < Duration::from_secs(5), "the commit wakes it: {took:?}");
    });
    // Existing events are returned at once.
    let began = Instant::now();
    assert_eq!(follower.query(sql, &[&position]).unwrap().len(), 1);
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// The place of a follower is the text that it stores: nothing that happens to a read moves it.
#[test]
fn undone_and_ended_reads_move_no_position() {
    let db = Db::new();
    let client = &mut db.connect();
    let position = current_position(client);
    let tasks = create_tasks(client, 10);
    let ids = all_ids_after(client, &position);
    assert_eq!(ids.len(), tasks.len() + 1);
    let mut transaction = client.transaction().unwrap();
    let mut savepoint = transaction.transaction().unwrap();
    assert_eq!(all_ids_after(&mut savepoint, &position), ids);
    savepoint.rollback().unwrap();
    assert_eq!(all_ids_after(&mut transaction, &position), ids);
    transaction.rollback().unwrap();
    let mut end = position.clone();
    drain(client, &mut end, 100);
    let wait = "SELECT FROM workflow.follow_events($1, 10, '60 s')";
    for end_with in ["pg_cancel_backend", "pg_terminate_backend"] {
        let mut reader = db.connect();
        let pid: i32 = reader.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| reader.query(wait, &[&end]).map(|_| ()));
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'Extension'";
            wait_until("it waits", || client.query_one(waits, &[&pid]).unwrap().get::<_, i64>(0) == 1);
            client.query_one(&format!("SELECT {end_with}($1)"), &[&pid]).unwrap();
            assert!(waiting.join().unwrap().is_err());
        });
    }
    start_task(client, tasks[0]);
    assert_eq!(all_ids_after(&mut db.connect(), &position).len(), ids.len() + 1);
    assert_eq!(entities(&drain(&mut db.connect(), &mut end, 7)), [tasks[0]]);
}

fn all_ids_after(client: &mut impl GenericClient, position: &str) -> Vec<i64> {
    drain(client, &mut position.to_owned(), 100).iter().map(|event| event.0).collect()
}

#[test]
fn events_before_a_position_are_flushed() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    client.batch_execute("SET synchronous_commit = off").unwrap();
    let inserted = |client: &mut Client| -> String {
        client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).unwrap().get(0)
    };
    let is_flushed = |client: &mut Client, written: &str| -> bool {
        let sql = "SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn";
        client.query_one(sql, &[&written]).unwrap().get(0)
    };
    start_task(client, task);
    let written = inserted(client);
    let mut position = current_position(client);
    assert!(is_flushed(client, &written));
    Transition::of(task).from(State::Running).to(State::Success).run(client).unwrap();
    // Also the end of a transaction without events: its transaction ID may be used again after a crash.
    client.batch_execute("BEGIN; CREATE TABLE undone (); ROLLBACK").unwrap();
    let written = inserted(client);
    client.batch_execute("SET default_transaction_read_only = on").unwrap();
    assert_eq!(follow(client, &mut position, 10).len(), 1);
    assert!(is_flushed(client, &written));
    let setting = client.query_one("SHOW synchronous_commit", &[]).unwrap();
    assert_eq!(setting.get::<_, String>(0), "off");
}

#[test]
fn standby_rejects_following_until_its_promotion() {
    let (primary, db) = own_cluster("follow-promoted", &[PRELOADED]);
    let standby = primary.standby("follow-promoted").unwrap();
    primary.wait_for_standby().unwrap();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 10);
    let mut position = current_position(client);
    for task in &tasks {
        start_task(client, *task);
    }
    let mut seen = entities(&follow(client, &mut position, 4));
    let promoted = Db::at(standby.url("workflow"));
    let reader = &mut promoted.connect();
    for sql in ["SELECT workflow.current_position()".to_owned(), format!("SELECT workflow.follow_events('{position}')")]
    {
        let failed = failure(reader.query(&sql, &[]));
        assert_eq!((failed.sqlstate.as_str(), failed.hint.as_str()), ("25006", "Read it from the primary."));
    }
    primary.kill().unwrap();
    standby.promote().unwrap();
    let client = &mut promoted.connect();
    seen.extend(entities(&drain(client, &mut position, 4)));
    assert!(tasks.iter().all(|task| seen.contains(task)));
    let task = create_task(client);
    assert_eq!(entities(&drain(client, &mut position, 4))[1..], [task]);
    drop(db.without_verification());
}

/// Another session may use it before the commit, and it outlives a rollback.
#[test]
fn position_of_a_writing_transaction_is_valid_outside() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 2);
    for is_undone in [true, false] {
        let mut session = db.connect();
        let mut writing = session.transaction().unwrap();
        start_task(&mut writing, tasks[0]);
        let position = current_position(&mut writing);
        assert_eq!(drain(client, &mut position.clone(), 10), []);
        let expected = if is_undone {
            writing.rollback().unwrap();
            start_task(client, tasks[1]);
            tasks[1]
        } else {
            writing.commit().unwrap();
            tasks[0]
        };
        assert_eq!(entities(&drain(client, &mut position.clone(), 10)), [expected]);
    }
}
