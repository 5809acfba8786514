//! Queues: slots, pauses, tenants, and their view.

use super::{claim, claim_one, enqueue, enqueue_in, outcomes};
use pg_workflow_tests::*;
use postgres::Client;
use postgres::error::SqlState;
use std::sync::Barrier;

#[test]
fn no_more_than_the_slots_are_claimed_at_a_time() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 20);
    client.query("SELECT workflow.set_queue('default', slots => 3)", &[]).unwrap();
    let claimers = 8;
    let barrier = Barrier::new(claimers);
    let taken: usize = std::thread::scope(|scope| {
        let claimed: Vec<_> = (0..claimers)
            .map(|_| {
                scope.spawn(|| {
                    let client = &mut db.connect();
                    barrier.wait();
                    (0..20).map(|_| claim(client, "default", 1).len()).sum::<usize>()
                })
            })
            .collect();
        claimed.into_iter().map(|claimer| claimer.join().unwrap()).sum()
    });
    assert_eq!(taken, 3);
    let call = "CALL workflow.wait_for_tasks('{default}', '0')";
    assert!(!client.query_one(call, &[]).unwrap().get::<_, bool>(0), "no slot is free");
    let held: String = client.query_one("SELECT id::text FROM workflow.claims LIMIT 1", &[]).unwrap().get(0);
    client.query(&format!("SELECT workflow.transition_task_instance('{held}', 'running', 'success')"), &[]).unwrap();
    assert_eq!(claim(client, "default", 5).len(), 1);
    client.query("SELECT workflow.set_queue('default', slots => 0)", &[]).unwrap();
    let refused = "SELECT refused FROM workflow.queues";
    let before: i64 = client.query_one(refused, &[]).unwrap().get(0);
    assert!(claim(client, "default", 5).is_empty());
    assert_eq!(client.query_one(refused, &[]).unwrap().get::<_, i64>(0), before + 1);
    client.query("SELECT workflow.set_queue('default', slots => 2147483647)", &[]).unwrap();
    assert_eq!(claim(client, "default", 100).len(), 16);
}

#[test]
fn view_of_queues_counts_what_waits_and_runs() {
    let db = Db::new();
    let client = &mut db.connect();
    let (dag, run) = create_run(client);
    enqueue_in(client, run, "default", 2);
    client.query("SELECT workflow.pause_dag($1)", &[&dag]).unwrap();
    claim(client, "default", 1);
    enqueue(client, "default", 3);
    let held = claim_one(client, "default");
    let (_, later) = create_run(client);
    let sql = "SELECT workflow.create_task_instances($1, '{t}', queue => 'default', not_before => now() + '1 h')";
    client.query(sql, &[&later]).unwrap();
    let sql =
        "SELECT ready, later, parked, running, oldest_ready_at < now() FROM workflow.queues WHERE name = 'default'";
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!([0, 1, 2, 3].map(|column| row.get::<_, i64>(column)), [2, 1, 2, 1]);
    assert!(row.get::<_, bool>(4));
    let sql = "SELECT queue, worker, lease_expires_at > now() FROM workflow.claims WHERE id = $1";
    let row = client.query_one(sql, &[&held.id]).unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), ("default".to_owned(), "worker".to_owned()));
}

fn create_tenants(admin: &mut Client) -> [String; 2] {
    ["a", "b"].map(|name| {
        let role = format!("{name}_{}", uuid::Uuid::new_v4().simple());
        admin.batch_execute(&format!("CREATE ROLE {role} IN ROLE workflow_writer")).unwrap();
        role
    })
}

fn drop_tenants(admin: &mut Client, roles: &[String]) {
    for role in roles {
        admin.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
    }
}

#[test]
fn tenant_claims_only_its_own() {
    let db = Db::new();
    let admin = &mut db.connect();
    admin.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    let roles = create_tenants(admin);
    let [mut a, mut b] = roles.clone().map(|role| {
        let mut client = db.connect();
        client.batch_execute(&format!("SET ROLE {role}")).unwrap();
        client
    });
    enqueue(&mut a, "default", 2);
    enqueue(&mut b, "default", 1);
    let held = claim(&mut b, "default", 10);
    assert_eq!(held.len(), 1);
    let queues = "SELECT count(*), min(running) FROM workflow.queues";
    let row = b.query_one(queues, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 1));
    assert_eq!(b.query("SELECT FROM workflow.ready", &[]).unwrap().len(), 0);
    let refused = "SELECT count(workflow.refused_claims(n)) FROM generate_series(1, 9) AS n";
    assert_eq!(b.query_one(refused, &[]).unwrap().get::<_, i64>(0), 1, "those of its own queue");
    let of_a = claim(&mut a, "default", 10);
    assert_eq!(of_a.len(), 2);
    assert_eq!(outcomes(&mut b, "renew_claims", &[&of_a[0].claim]), ["lost"]);
    let error = b.query("SELECT workflow.complete_claim($1)", &[&of_a[0].claim]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error:?}");
    b.query("SELECT workflow.complete_claim($1)", &[&held[0].claim]).unwrap();
    a.query("SELECT workflow.complete_claim($1)", &[&of_a[0].claim]).unwrap();
    // A tenant's tasks cannot be put into another one's queue.
    let queue_of_a: i32 = a.query_one("SELECT id FROM workflow.queues", &[]).unwrap().get(0);
    enqueue(&mut b, "default", 1);
    let error = b.execute("UPDATE workflow.task_instances SET queue_id = $1", &[&queue_of_a]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{error:?}");
    drop((a, b));
    drop_tenants(admin, &roles);
}

/// A worker that sees the queues of all tenants begins with another one at each call.
#[test]
fn worker_of_all_tenants_serves_each() {
    let db = Db::new();
    let admin = &mut db.connect();
    admin.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    let roles = create_tenants(admin);
    for (role, count) in roles.iter().zip([60, 20]) {
        let mut tenant = db.connect();
        tenant.batch_execute(&format!("SET ROLE {role}")).unwrap();
        enqueue(&mut tenant, "default", count);
    }
    (0..40).for_each(|_| _ = claim_one(admin, "default"));
    let sql = "SELECT count(*) FROM workflow.task_instances AS t JOIN workflow.queue_settings AS q ON q.id = t.queue_id
               WHERE t.state = 'running' AND q.tenant = $1";
    let taken = roles.each_ref().map(|role| admin.query_one(sql, &[role]).unwrap().get::<_, i64>(0));
    assert_eq!(taken, [20, 20]);
    drop_tenants(admin, &roles);
}

/// The call sees the first task when it begins, and the second one when that is committed.
#[test]
fn task_that_is_created_meanwhile_is_not_taken_from_its_queue() {
    let db = Db::new();
    let (client, creator) = (&mut db.connect(), &mut db.connect());
    let (_, run) = create_run(client);
    let sql = "SELECT id FROM workflow.create_task_instances($1, '{first}')";
    let first: uuid::Uuid = client.query_one(sql, &[&run]).unwrap().get(0);
    creator.batch_execute("BEGIN").unwrap();
    let second = enqueue(creator, "new", 1)[0];
    let outcomes: Vec<String> = std::thread::scope(|scope| {
        let mut caller = db.connect();
        let sql = "SELECT outcome FROM workflow.enqueue_task_instances($1, 'new')";
        let calling = scope.spawn(move || caller.query(sql, &[&vec![first, second]]).unwrap());
        // It waits for the other one, which creates the queue.
        let waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait_until("the call waits", || client.query(waits, &[]).unwrap().len() == 1);
        creator.batch_execute("COMMIT").unwrap();
        calling.join().unwrap().iter().map(|row| row.get(0)).collect()
    });
    assert_eq!(outcomes, ["enqueued", "missing"]);
    assert_eq!(claim(client, "new", 10).len(), 2, "no task is lost");
}

/// A session that waits reaps, but only what its role sees.
#[test]
fn waiting_session_of_one_tenant_keeps_no_other_from_reaping() {
    let db = Db::new();
    let admin = &mut db.connect();
    admin.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    let [a, b] = create_tenants(admin);
    let connect_as = |role: &str| {
        let mut client = db.connect();
        client.batch_execute(&format!("SET ROLE {role}")).unwrap();
        client
    };
    let b_session = &mut connect_as(&b);
    enqueue(b_session, "default", 1);
    let sql = "SELECT claim FROM workflow.claim_tasks('gone', lease => '100 ms')";
    b_session.query_one(sql, &[]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut waiter = connect_as(&a);
            scope.spawn(move || waiter.execute("CALL workflow.wait_for_tasks('{none}', '6 s')", &[]).unwrap());
        }
        let mut waiter = connect_as(&b);
        scope.spawn(move || waiter.execute("CALL workflow.wait_for_tasks('{none}', '6 s')", &[]).unwrap());
    });
    assert_eq!(b_session.query("SELECT FROM workflow.claims", &[]).unwrap().len(), 0, "the claim has not been ended");
}
