//! stuck() knows claims: a long task whose lease is renewed is not stuck.

use super::{claim, claim_one, enqueue, enqueue_in};
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

fn stuck(client: &mut Client, longer_than: &str) -> Vec<Uuid> {
    let sql = format!("SELECT entity_id FROM workflow.stuck('{longer_than}')");
    client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Lets all that has happened lie two hours back, except for leases.
fn age(client: &mut Client) {
    client
        .batch_execute(
            "SET session_replication_role = replica;
             UPDATE workflow.dag_runs SET updated_at = updated_at - interval '2 hours';
             UPDATE workflow.task_instances SET updated_at = updated_at - interval '2 hours';
             UPDATE workflow.ready SET ready_at = ready_at - interval '2 hours';
             RESET session_replication_role",
        )
        .unwrap();
}

#[test]
fn claimed_task_is_stuck_after_its_lease() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    enqueue_in(client, run, "default", 1);
    client.query_one("SELECT workflow.transition_dag_run($1, 'queued', 'running')", &[&run]).unwrap();
    let held = claim_one(client, "default");
    age(client);
    assert!(stuck(client, "1 hour").is_empty(), "a task with a lease, and its run");
    client.query("SELECT workflow.renew_claims(ARRAY[$1], '10 ms')", &[&held.claim]).unwrap();
    client.query("SELECT pg_sleep_until(max(lease_expires_at)) FROM workflow.claims", &[]).unwrap();
    // The row still has the first lease, of 30 s.
    client.batch_execute("UPDATE workflow.task_instances SET timeout = '1 h'").unwrap();
    assert!(stuck(client, "1 hour").is_empty());
    let after_its_lease = "SET session_replication_role = replica;
         UPDATE workflow.task_instances SET lease_expires_at = lease_expires_at - interval '1 minute';
         RESET session_replication_role";
    client.batch_execute(after_its_lease).unwrap();
    // The end of a lease in memory is told to the microsecond at which it is asked: their order is open.
    let mut both = stuck(client, "0 s");
    both.sort_unstable();
    assert_eq!(both, [run, held.id]);
    assert!(stuck(client, "1 hour").is_empty(), "the lease has just run out");
    client.query("SELECT workflow.reap_claims()", &[]).unwrap();
    assert!(!stuck(client, "0 s").contains(&held.id));
}

#[test]
fn task_beyond_its_timeout_is_stuck_whatever_is_renewed() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let sql = "SELECT workflow.create_task_instances($1, '{t}', queue => 'default', timeout => '10 ms')";
    client.query(sql, &[&run]).unwrap();
    let held = claim_one(client, "default");
    client.query("SELECT pg_sleep_until(max(times_out_at)) FROM workflow.claims", &[]).unwrap();
    assert_eq!(stuck(client, "0 s"), [held.id]);
}

#[test]
fn task_that_no_worker_claims_is_stuck() {
    let db = Db::new();
    let client = &mut db.connect();
    let first = enqueue(client, "default", 3)[0];
    assert!(stuck(client, "1 hour").is_empty());
    age(client);
    assert_eq!(stuck(client, "1 hour"), [first], "the one that waits for the longest time");
    assert!(stuck(client, "3 hours").is_empty());
    let set = |client: &mut Client, settings: &str| {
        client.query(&format!("SELECT workflow.set_queue('default', {settings})"), &[]).unwrap();
    };
    for paused in ["paused_until => 'infinity'", "paused_until => now() + '1 h'"] {
        set(client, paused);
        assert!(stuck(client, "1 hour").is_empty(), "{paused}");
    }
    set(client, "paused_until => '-infinity', slots => 0");
    assert!(stuck(client, "1 hour").is_empty());
    set(client, "slots => 1");
    client.batch_execute("SELECT workflow.pause_dag(id) FROM workflow.dags").unwrap();
    assert!(stuck(client, "1 hour").is_empty());
    client.batch_execute("SELECT workflow.unpause_dag(id) FROM workflow.dags").unwrap();
    assert_eq!(stuck(client, "1 hour"), [first]);

    // A retrying task waits in its queue until its time; without one it is stuck.
    let held = claim(client, "default", 1).pop().unwrap();
    client.query("SELECT workflow.release_claims(ARRAY[$1], '3 h')", &[&held.claim]).unwrap();
    age(client);
    assert!(!stuck(client, "1 hour").contains(&held.id));
    client.batch_execute("UPDATE workflow.task_instances SET queue_id = NULL").unwrap();
    age(client);
    assert_eq!(stuck(client, "1 hour"), [held.id]);
}
