//! Leases on consumers, and relay checkpoints to rewind to.

use pg_workflow_tests::*;
use postgres::Client;
use serde_json::Value;

/// Its consumers had leases in the other database.
#[test]
fn copy_gives_no_number_of_a_lease_again() {
    let db = Db::new();
    let client = &mut db.connect();
    let lease = |client: &mut Client| -> i64 {
        client.query_one("SELECT workflow.lease_consumer('c', 'holder')", &[]).unwrap().get(0)
    };
    let restored = "SELECT workflow.create_consumer('c'), workflow.create_consumer('made up');
        SELECT setval('workflow.lease_number_seq', 1, false);
        UPDATE workflow.consumers SET system_identifier = 1, lease_number = 7 WHERE name = 'c';
        UPDATE workflow.consumers SET lease_number = 9223372036854775807 WHERE name = 'made up';
        SELECT workflow.finish_copy()";
    restored.split_inclusive(';').for_each(|sql| client.batch_execute(sql).unwrap());
    let first = lease(client);
    client.batch_execute("SELECT workflow.drop_consumer('c'), workflow.create_consumer('c')").unwrap();
    let second = lease(&mut db.connect());
    assert!(7 < first && first < second && second < 1000, "{first}, {second}");
}

#[test]
fn only_lease_holder_reads_leased_consumer() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('c', true)").unwrap();
    create_tasks(client, 3);
    let lease = "SELECT workflow.lease_consumer('c', $1, '1 hour')";
    let held: Option<i64> = client.query_one(lease, &[&"me"]).unwrap().get(0);
    assert_eq!(held, Some(1));
    let other = &mut db.connect();
    assert_eq!(other.query_one(lease, &[&"you"]).unwrap().get::<_, Option<i64>>(0), None);
    for sql in ["SELECT FROM workflow.read_events('c')", "SELECT FROM workflow.read_events('c', lease => 2)"] {
        let failed = failure(other.query(sql, &[]));
        assert_eq!((failed.sqlstate.as_str(), &failed.detail["consumer"]), ("55006", &Value::from("c")), "{sql}");
        assert!(!failed.hint.is_empty());
    }
    let sql = "SELECT id FROM workflow.read_events('c', lease => 1)";
    assert_eq!(client.query(sql, &[]).unwrap().len(), 4);
    assert!(client.query_one("SELECT workflow.release_consumer('c', 1)", &[]).unwrap().get::<_, bool>(0));
    assert_eq!(failure(client.query(sql, &[])).sqlstate, "55006");
    // Free again, also for sessions without a lease.
    assert_eq!(other.query("SELECT FROM workflow.read_events('c')", &[]).unwrap().len(), 4);
    assert_eq!(other.query_one(lease, &[&"you"]).unwrap().get::<_, Option<i64>>(0), Some(2));
    let refused = failure(client.query("SELECT workflow.lease_consumer('c', 'x', '0')", &[]));
    assert_eq!(refused.sqlstate, "22023");
}

#[test]
fn new_lease_ends_session_of_expired_holder() {
    let db = Db::new();
    let holder = &mut db.connect();
    holder.batch_execute("SELECT workflow.create_consumer('c')").unwrap();
    holder.batch_execute("SELECT workflow.lease_consumer('c', 'me', '1 ms')").unwrap();
    // The session hangs while it locks the consumer.
    let mut open = holder.transaction().unwrap();
    open.query("SELECT FROM workflow.read_events('c', lease => 1)", &[]).unwrap();
    let lease = "SELECT workflow.lease_consumer('c', 'you')";
    assert_eq!(db.connect().query_one(lease, &[]).unwrap().get::<_, Option<i64>>(0), Some(2));
    assert!(open.batch_execute("SELECT").is_err());
}

/// Its transaction may be another client's, to whom a pooler has lent the session.
#[test]
fn new_lease_ends_no_session_that_locks_no_consumer() {
    let db = Db::new();
    let holder = &mut db.connect();
    holder.batch_execute("SELECT workflow.create_consumer('c'), workflow.create_consumer('d')").unwrap();
    holder.batch_execute("SELECT workflow.lease_consumer('c', 'me', '1 ms')").unwrap();
    let mut open = holder.transaction().unwrap();
    open.batch_execute("SELECT workflow.read_events('d'), workflow.create_dag('innocent')").unwrap();
    let lease = "SELECT workflow.lease_consumer('c', 'you')";
    assert_eq!(db.connect().query_one(lease, &[]).unwrap().get::<_, Option<i64>>(0), Some(2));
    open.commit().expect("its session continues");
}

/// Behind a pooler, a reader need not read in the session that acquired its lease.
#[test]
fn new_lease_ends_session_that_locks_the_consumer() {
    let db = Db::new();
    let holder = &mut db.connect();
    holder.batch_execute("SELECT workflow.create_consumer('c')").unwrap();
    holder.batch_execute("SELECT workflow.lease_consumer('c', 'me', '1 ms')").unwrap();
    for begin in ["BEGIN", "BEGIN; SAVEPOINT s"] {
        let reader = &mut db.connect();
        let lease: i64 = holder.query_one("SELECT lease_number FROM workflow.consumers", &[]).unwrap().get(0);
        reader.batch_execute(&format!("{begin}; SELECT FROM workflow.read_events('c', lease => {lease})")).unwrap();
        let next = "SELECT workflow.lease_consumer('c', 'you', '1 ms')";
        assert_eq!(db.connect().query_one(next, &[]).unwrap().get::<_, Option<i64>>(0), Some(lease + 1), "{begin}");
        assert!(reader.batch_execute("COMMIT").is_err(), "{begin}");
    }
    holder.batch_execute("SELECT").expect("its session continues");
}

#[test]
fn lease_ends_with_its_session() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('c')").unwrap();
    let mut holder = db.connect();
    holder.batch_execute("SELECT workflow.lease_consumer('c', 'me', '1 hour')").unwrap();
    let lease = "SELECT workflow.lease_consumer('c', 'you', '1 hour')";
    assert_eq!(client.query_one(lease, &[]).unwrap().get::<_, Option<i64>>(0), None);
    drop(holder);
    wait_until("the lease is free", || client.query_one(lease, &[]).unwrap().get::<_, Option<i64>>(0) == Some(2));
}

#[test]
fn rolled_back_lease_is_not_held() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('c')").unwrap();
    let lease = |client: &mut postgres::Transaction<'_>, holder: &str| -> Option<i64> {
        client.query_one("SELECT workflow.lease_consumer('c', $1, '1 hour')", &[&holder]).unwrap().get(0)
    };
    let session = &mut db.connect();
    let mut acquiring = session.transaction().unwrap();
    assert_eq!(lease(&mut acquiring, "me"), Some(1));
    acquiring.rollback().unwrap();
    client.batch_execute("SELECT workflow.read_events('c')").unwrap();
    let mut acquiring = client.transaction().unwrap();
    assert_eq!(lease(&mut acquiring, "you"), Some(2));
    acquiring.commit().unwrap();
    assert_eq!(failure(session.batch_execute("SELECT workflow.read_events('c')")).sqlstate, "55006");
}

#[test]
fn consumer_that_is_created_again_gives_no_number_of_a_holder() {
    let db = Db::new();
    let [client, first, second] = &mut [db.connect(), db.connect(), db.connect()];
    let create = "SELECT workflow.create_consumer('c', true)";
    client.batch_execute(create).unwrap();
    let lease = "SELECT workflow.lease_consumer('c', pg_backend_pid()::text, '1 hour')";
    let [old, new] = [first, second].map(|session| {
        let number: i64 = session.query_one(lease, &[]).unwrap().get(0);
        client.batch_execute(&format!("SELECT workflow.drop_consumer('c'); {create}")).unwrap();
        number
    });
    assert!(new > old, "{old} and {new}");
}

/// An expiry that lies an hour later than the clock says is what a clock set back by an hour leaves.
#[test]
fn lease_expires_after_the_clock_was_set_back() {
    let db = Db::new();
    let client = &mut db.connect();
    let holder = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('c', true)").unwrap();
    let set_clock = |client: &mut Client, to: &str| {
        let sql = format!("UPDATE workflow.consumers SET lease_expires_at = lease_expires_at + interval '{to}'");
        client.batch_execute(&sql).unwrap();
    };
    let lease = |client: &mut Client, holder: &str| -> Option<i64> {
        client.query_one("SELECT workflow.lease_consumer('c', $1, '10 min')", &[&holder]).unwrap().get(0)
    };
    assert_eq!(lease(holder, "me"), Some(1));
    assert_eq!(lease(client, "you"), None);
    set_clock(client, "1 hour");
    // The holder reads, which renews the lease by the clock.
    holder.batch_execute("SELECT workflow.read_events('c', lease => 1)").unwrap();
    assert_eq!(lease(client, "you"), None);
    assert_eq!(failure(client.batch_execute("SELECT workflow.read_events('c')")).sqlstate, "55006");
    // It hangs, and another takes its place.
    set_clock(client, "1 hour");
    client.batch_execute("SELECT workflow.read_events('c')").unwrap();
    assert_eq!(lease(client, "you"), Some(2));
    let read = "SELECT workflow.read_events('c', lease => 1)";
    assert_eq!(failure(holder.batch_execute(read)).sqlstate, "55006", "it holds it no longer");
    // Set forward, a lease expires.
    set_clock(client, "-1 hour");
    assert_eq!(lease(&mut db.connect(), "they"), Some(3));
}

#[test]
fn rewind_returns_to_checkpoint_before_position() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('c'), workflow.save_checkpoint('c', '{0,0}')").unwrap();
    let mut ends = Vec::new();
    for round in 1..=3 {
        create_tasks(client, 2);
        let sql = "SELECT max(id) FROM workflow.read_events('c')";
        let last: i64 = client.query_one(sql, &[]).unwrap().get(0);
        client.execute("SELECT workflow.ack_events('c', $1)", &[&last]).unwrap();
        client.execute("SELECT workflow.save_checkpoint('c', ARRAY[$1::bigint, 0])", &[&(round * 10_i64)]).unwrap();
        ends.push(last);
    }
    let mut rewind = |position: &str| -> (Option<Vec<i64>>, i64) {
        let sql = format!("SELECT workflow.rewind_consumer('c', '{position}')");
        let at = client.query_one(&sql, &[]).unwrap().get(0);
        let pending = client.query_one("SELECT count(*) FROM workflow.read_events('c')", &[]).unwrap().get(0);
        (at, pending)
    };
    assert_eq!(rewind("{31,7}"), (Some(vec![30, 0]), 0));
    assert_eq!(rewind("{29,7}"), (Some(vec![20, 0]), 3));
    assert_eq!(rewind("{30,0}"), (Some(vec![20, 0]), 3), "later checkpoints are deleted");
    assert_eq!(rewind("{0,5}"), (Some(vec![0, 0]), 9));
    // If all checkpoints are later, the first one.
    client.batch_execute("DELETE FROM workflow.consumer_checkpoints").unwrap();
    client.batch_execute("SELECT workflow.save_checkpoint('c', '{40,1}')").unwrap();
    let sql = "SELECT workflow.rewind_consumer('c', '{1,1}')";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, Option<Vec<i64>>>(0), Some(vec![40, 1]));
    assert_eq!(ends.len(), 3);
}
