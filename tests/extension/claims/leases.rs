//! Leases: renewals in shared memory, and who gets another lease after a silence.

use super::{claim, enqueue, outcomes, state_of};
use pg_workflow_tests::*;
use postgres::Client;
use std::time::Duration;
use xtask::stack::postgres::{PRELOADED, Shutdown};

const REAP: &str = "SELECT id FROM workflow.reap_claims()";

fn claim_for(client: &mut Client, lease: &str) -> String {
    let sql = "SELECT claim FROM workflow.claim_tasks('worker', lease => $1::text::interval)";
    client.query_one(sql, &[&lease]).unwrap().get(0)
}

/// Waits until the leases of all claims have run out.
fn expire(client: &mut Client) {
    client.query("SELECT pg_sleep_until(max(lease_expires_at)) FROM workflow.claims", &[]).unwrap();
}

#[test]
fn renewal_writes_nothing() {
    if is_statement_path() {
        // Then each renewal writes the row.
        return;
    }
    let (_cluster, db) = own_cluster("renewals", &[PRELOADED, ("autovacuum", "off")]);
    let client = &mut db.connect();
    enqueue(client, "default", 500);
    let held: Vec<String> = claim(client, "default", 500).into_iter().map(|task| task.claim).collect();
    let place = "SELECT pg_current_wal_insert_lsn()::text";
    let renew = "SELECT count(*) FROM workflow.renew_claims($1) WHERE outcome = 'renewed'";
    client.query_one(renew, &[&held]).unwrap();
    // A checkpoint or the background writer can add a record.
    let wrote = (0..10).map(|_| {
        let before: String = client.query_one(place, &[]).unwrap().get(0);
        assert_eq!(client.query_one(renew, &[&held]).unwrap().get::<_, i64>(0), 500);
        before != client.query_one(place, &[]).unwrap().get::<_, String>(0)
    });
    assert!(wrote.collect::<Vec<bool>>().contains(&false));
    let shown = "SELECT count(*) FROM workflow.claims AS c JOIN workflow.task_instances AS t USING (id)
                 WHERE c.lease_expires_at > t.lease_expires_at";
    assert_eq!(client.query_one(shown, &[]).unwrap().get::<_, i64>(0), 500);
}

#[test]
fn renewals_beyond_the_room_write_the_row() {
    if is_statement_path() {
        return;
    }
    let (_cluster, db) = own_cluster("few-leases", &[PRELOADED, ("pg_workflow.max_claims", "64")]);
    let client = &mut db.connect();
    enqueue(client, "default", 200);
    let held: Vec<String> = claim(client, "default", 200).into_iter().map(|task| task.claim).collect();
    let claims: Vec<&str> = held.iter().map(String::as_str).collect();
    assert_eq!(outcomes(client, "renew_claims", &claims), ["renewed"; 200]);
    let in_rows = "SELECT count(*) FROM workflow.task_instances WHERE lease_expires_at > start_date + '30 s'";
    let in_rows: i64 = client.query_one(in_rows, &[]).unwrap().get(0);
    assert!((136..200).contains(&in_rows), "{in_rows}");
}

/// Without preloading, renewals write the rows. A row that another transaction has locked keeps none of the others from it.
#[test]
fn locked_task_delays_no_renewal() {
    let (_cluster, db) = own_cluster("locked-renewal", &[]);
    let (client, other) = (&mut db.connect(), &mut db.connect());
    enqueue(client, "default", 3);
    let held: Vec<String> = claim(client, "default", 3).into_iter().map(|task| task.claim).collect();
    let claims: Vec<&str> = held.iter().map(String::as_str).collect();
    let lock = "BEGIN; SELECT FROM workflow.task_instances WHERE task_id = 'default_1' FOR UPDATE";
    other.batch_execute(lock).unwrap();
    client.batch_execute("SET lock_timeout = '1ms'").unwrap();
    assert_eq!(outcomes(client, "renew_claims", &claims), ["renewed"; 3]);
    let renewed = "SELECT count(*) FROM workflow.task_instances WHERE lease_expires_at > start_date + '30 s'";
    assert_eq!(client.query_one(renewed, &[]).unwrap().get::<_, i64>(0), 2);
    other.batch_execute("ROLLBACK").unwrap();
    client.query("SELECT workflow.complete_claim($1)", &[&claims[0]]).unwrap();
    assert_eq!(outcomes(client, "renew_claims", &claims), ["lost", "renewed", "renewed"]);
    assert_eq!(client.query_one(renewed, &[]).unwrap().get::<_, i64>(0), 2);
}

#[test]
fn lease_begins_at_the_commit_of_the_claim() {
    let (_cluster, db) = own_cluster("late-commit", &[PRELOADED]);
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    client.batch_execute("BEGIN").unwrap();
    claim_for(client, "1 s");
    client.batch_execute("SELECT pg_sleep(0.6); COMMIT").unwrap();
    let left = "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM workflow.claims";
    let left: f64 = client.query_one(left, &[]).unwrap().get(0);
    assert!((0.7..=1.0).contains(&left), "{left}");
}

/// A holder that could not renew while the server was down gets a lease to do so.
#[test]
fn claims_get_another_lease_after_a_restart() {
    let (cluster, db) = own_cluster("lease-restart", &[PRELOADED]);
    let client = &mut db.connect();
    let task = enqueue(client, "default", 1)[0];
    claim_for(client, "1 s");
    expire(client);
    cluster.stop(Shutdown::Fast).unwrap();
    cluster.start_again().unwrap();
    let client = &mut db.connect();
    assert!(client.query(REAP, &[]).unwrap().is_empty());
    assert_eq!(state_of(client, task), "running");
    wait_until("the lease after the restart ends", || client.query(REAP, &[]).unwrap().len() == 1);
}

/// While no worker's renewals arrive, as with a frozen server or without a network, no claim is lost for that.
#[test]
fn claims_get_another_lease_after_a_silence() {
    let (_cluster, db) = own_cluster("silence", &[PRELOADED]);
    let client = &mut db.connect();
    enqueue(client, "default", 2);
    let [first, second] = [0, 1].map(|_| claim_for(client, "2500 ms"));
    expire(client);
    // The one that comes back first has not lived while the other was dead.
    assert_eq!(outcomes(client, "renew_claims", &[&first]), ["renewed"]);
    assert!(client.query(REAP, &[]).unwrap().is_empty());
    assert_eq!(outcomes(client, "renew_claims", &[&second]), ["renewed"]);
    // Now one of them continues, and the other is gone.
    let reaped = std::cell::Cell::new(0);
    wait_until("the claim that is not renewed ends", || {
        assert_eq!(outcomes(client, "renew_claims", &[&first]), ["renewed"]);
        reaped.set(reaped.get() + client.query(REAP, &[]).unwrap().len());
        reaped.get() == 1
    });
    assert_eq!(outcomes(client, "renew_claims", &[&second]), ["lost"]);
    // The last one dies, too: it is silent, and ends all the same.
    wait_until("the last claim ends", || client.query(REAP, &[]).unwrap().len() == 1);
}

fn sleep(client: &mut Client, seconds: f64) {
    client.query("SELECT pg_sleep($1)", &[&seconds]).unwrap();
}

/// A claim has its lease from the end of a silence, whatever silences follow.
#[test]
fn later_silence_does_not_end_a_lease_early() {
    let (_cluster, db) = own_cluster("two-silences", &[PRELOADED]);
    let client = &mut db.connect();
    enqueue(client, "default", 2);
    let (quiet, live) = (claim_for(client, "3 s"), claim_for(client, "1 hour"));
    sleep(client, 3.1);
    assert_eq!(outcomes(client, "renew_claims", &[&live]), ["renewed"]);
    sleep(client, 1.7);
    assert_eq!(outcomes(client, "renew_claims", &[&live]), ["renewed"]);
    assert!(client.query(REAP, &[]).unwrap().is_empty());
    assert_eq!(outcomes(client, "renew_claims", &[&quiet]), ["renewed"]);
}

/// Signs come only from workers of the same database, that hold a claim.
#[test]
fn others_do_not_end_a_silence() {
    let (cluster, db) = own_cluster("foreign-signs", &[PRELOADED]);
    cluster.psql("postgres", "CREATE EXTENSION pg_workflow").unwrap();
    let other = Db::at(cluster.url("postgres"));
    let (client, foreign) = (&mut db.connect(), &mut other.connect());
    enqueue(client, "default", 2);
    enqueue(foreign, "default", 1);
    let (quiet, ended) = (claim_for(client, "3 s"), claim_for(client, "1 hour"));
    let foreign_claim = claim_for(foreign, "1 hour");
    client.query("SELECT workflow.complete_claim($1)", &[&ended]).unwrap();
    for _ in 0..8 {
        sleep(client, 0.4);
        assert_eq!(outcomes(foreign, "renew_claims", &[&foreign_claim]), ["renewed"]);
        assert!(claim(client, "default", 1).is_empty());
        assert_eq!(outcomes(client, "renew_claims", &[&ended]), ["lost"]);
        outcomes(client, "renew_claims", &[]);
    }
    assert!(client.query(REAP, &[]).unwrap().is_empty());
    assert_eq!(outcomes(client, "renew_claims", &[&quiet]), ["renewed"]);
}

/// After a silence, renewals take no room from claims that have another lease.
#[test]
fn renewals_after_a_silence_leave_the_leases_of_others() {
    let settings = [PRELOADED, ("pg_workflow.max_claims", "64")];
    let (_cluster, db) = own_cluster("silence-room", &settings);
    let client = &mut db.connect();
    enqueue(client, "default", 220);
    let mut take = |lease: &str, max: i32| -> Vec<String> {
        let sql = "SELECT claim FROM workflow.claim_tasks('worker', max => $2, lease => $1::text::interval)";
        client.query(sql, &[&lease, &max]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    let (long, short) = (take("1 hour", 200), take("1 s", 20));
    let [long, short] = [&long, &short].map(|claims| claims.iter().map(String::as_str).collect::<Vec<_>>());
    for _ in 0..2 {
        sleep(client, 0.6);
        assert_eq!(outcomes(client, "renew_claims", &short), ["renewed"; 20]);
    }
    sleep(client, 2.2);
    assert_eq!(outcomes(client, "renew_claims", &long), ["renewed"; 200]);
    assert!(client.query(REAP, &[]).unwrap().is_empty());
    assert_eq!(outcomes(client, "renew_claims", &short), ["renewed"; 20]);
}

#[test]
fn ended_claim_leaves_its_room() {
    if is_statement_path() {
        return;
    }
    let settings = [PRELOADED, ("pg_workflow.max_claims", "64")];
    let (_cluster, db) = own_cluster("room-of-ended", &settings);
    let client = &mut db.connect();
    enqueue(client, "default", 220);
    let in_rows = "SELECT count(*) FROM workflow.task_instances
                   WHERE worker IS NOT NULL AND lease_expires_at > start_date + '30 s'";
    let renew = |client: &mut Client, count| {
        let held: Vec<String> = claim(client, "default", count).into_iter().map(|task| task.claim).collect();
        let claims: Vec<&str> = held.iter().map(String::as_str).collect();
        assert!(outcomes(client, "renew_claims", &claims).iter().all(|outcome| outcome == "renewed"));
        (held, client.query_one(in_rows, &[]).unwrap().get::<_, i64>(0))
    };
    let (held, count) = renew(client, 200);
    assert!(count >= 136, "the room is full");
    // Undone ends leave the leases.
    let end = "SELECT workflow.complete_claim(c) FROM unnest($1::text[]) AS c";
    let left = "SELECT count(*) FROM workflow.claims WHERE lease_expires_at > claimed_at + '30 s'";
    for undo in ["BEGIN; ROLLBACK", "BEGIN; SAVEPOINT s; ROLLBACK TO s; COMMIT"] {
        let (before, after) = undo.rsplit_once("ROLLBACK").unwrap();
        client.batch_execute(before).unwrap();
        client.query(end, &[&held]).unwrap();
        client.batch_execute(&format!("ROLLBACK{after}")).unwrap();
        assert_eq!(client.query_one(left, &[]).unwrap().get::<_, i64>(0), 200, "{undo}");
    }
    client.query(end, &[&held]).unwrap();
    assert_eq!(renew(client, 20).1, 0);
}

#[test]
fn waiting_session_ends_claims_that_have_run_out() {
    let (_cluster, db) = own_cluster("reaping", &[PRELOADED]);
    let (client, waiter) = (&mut db.connect(), &mut db.connect());
    let (_, run) = create_run(client);
    let create = "SELECT workflow.create_task_instances($1, '{t}', 3, queue => 'default')";
    client.query(create, &[&run]).unwrap();
    claim_for(client, "300 ms");
    let began = std::time::Instant::now();
    let told: bool = waiter.query_one("CALL workflow.wait_for_tasks('{default}', '20 s')", &[]).unwrap().get(0);
    assert!(told && began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(claim(waiter, "default", 1)[0].try_number, 2);
}

#[test]
fn view_shows_the_end_of_a_shorter_renewal() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    let claim = claim_for(client, "1 hour");
    client.query("SELECT workflow.renew_claims(ARRAY[$1], '1 min')", &[&claim]).unwrap();
    let sql = "SELECT lease_expires_at - clock_timestamp() <= '1 min' FROM workflow.claims";
    assert!(client.query_one(sql, &[]).unwrap().get::<_, bool>(0));
}

/// The functions of the views and of the reaper change nothing, so that no reader fills the table of leases.
#[test]
fn questions_about_leases_take_no_room() {
    if is_statement_path() {
        return;
    }
    let settings = [PRELOADED, ("pg_workflow.max_claims", "64")];
    let (_cluster, db) = own_cluster("leases-room", &settings);
    let client = &mut db.connect();
    let sql = "SELECT count(workflow.has_expired(gen_random_uuid(), 1, now() + interval '1 day', 'infinity')),
                   count(workflow.lease_end(gen_random_uuid(), 1, now() + interval '1 day', 'infinity'))
               FROM generate_series(1, 10000)";
    client.query_one(sql, &[]).unwrap();
    enqueue(client, "default", 1);
    let claim = claim_for(client, "30 s");
    client.query("SELECT workflow.renew_claims(ARRAY[$1], '1 hour')", &[&claim]).unwrap();
    let in_row = "SELECT lease_expires_at - start_date FROM workflow.task_instances WHERE worker IS NOT NULL";
    let sql = format!("SELECT ({in_row}) < '1 min'");
    assert!(client.query_one(&sql, &[]).unwrap().get::<_, bool>(0), "the renewal wrote the row");
}
