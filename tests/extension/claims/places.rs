//! The place at which claims begin: they find every task, and read no more than they need.

use super::{Claim, claim, claim_one, enqueue, outcomes};
use pg_workflow_tests::*;
use postgres::Client;
use xtask::stack::postgres::{PRELOADED, Shutdown};

const PREPARED: [(&str, &str); 2] = [PRELOADED, ("max_prepared_transactions", "4")];

fn complete(client: &mut Client, held: &Claim) {
    client.query("SELECT workflow.complete_claim($1)", &[&held.claim]).unwrap();
}

#[test]
fn claim_reads_no_more_while_an_old_snapshot_is_held() {
    let db = Db::new();
    let (client, other) = (&mut db.connect(), &mut db.connect());
    enqueue(client, "default", 4000);
    let explained = "SELECT FROM workflow.claim_tasks('worker')";
    complete_many(client, 100);
    let least = |client: &mut Client| (0..5).map(|_| buffers(client, explained)).min().unwrap();
    let before = least(client);
    let mut holding =
        other.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start().unwrap();
    holding.query("SELECT 1", &[]).unwrap();
    complete_many(client, 3000);
    let after = least(client);
    assert!(after * 5 <= before * 6, "{before} buffers, then {after}");
}

fn complete_many(client: &mut Client, count: usize) {
    for _ in 0..count {
        let held = claim_one(client, "default");
        complete(client, &held);
    }
}

#[test]
fn tasks_that_are_not_due_cost_a_claim_nothing() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 30);
    let mut used = Vec::new();
    for queue in ["other", "default"] {
        for priority in 0..5 {
            let (_, run) = create_run(client);
            let sql =
                "SELECT workflow.create_task_instances($1, ARRAY(SELECT 't' || n FROM generate_series(1, 2000) AS n),
                           queue => $2, priority => $3, not_before => now() + '1 day')";
            client.query(sql, &[&run, &queue, &priority]).unwrap();
        }
        claim_one(client, "default");
        used.push((0..5).map(|_| buffers(client, "SELECT FROM workflow.claim_tasks('worker')")).min().unwrap());
    }
    assert!(used[1] * 5 <= used[0] * 6, "{used:?} buffers");
}

#[test]
fn claim_finds_what_its_own_transaction_has_added() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    claim_one(client, "default");
    assert!(claim(client, "default", 1).is_empty());
    client.batch_execute("BEGIN").unwrap();
    let task = enqueue(client, "default", 1)[0];
    assert_eq!(claim_one(client, "default").id, task);
    client.batch_execute("ROLLBACK").unwrap();
}

/// Each step leaves a task behind where the claims of another session have passed.
#[test]
fn claim_finds_at_once_what_comes_back() {
    let (_cluster, db) = own_cluster("claims-undone", &PREPARED);
    let (client, other) = (&mut db.connect(), &mut db.connect());
    let [early, late] = [0, 1].map(|_| enqueue(client, "default", 1)[0]);
    for undo in ["ROLLBACK", "ROLLBACK TO s; COMMIT", "PREPARE TRANSACTION 'claim'; ROLLBACK PREPARED 'claim'"] {
        client.batch_execute("BEGIN; SAVEPOINT s").unwrap();
        assert_eq!(claim_one(client, "default").id, early);
        let later = claim_one(other, "default");
        assert_eq!(later.id, late, "{undo}");
        assert!(claim(other, "default", 1).is_empty());
        undo.split("; ").for_each(|step| client.batch_execute(step).unwrap());
        let back = claim_one(other, "default");
        assert_eq!(back.id, early, "{undo}");
        assert_eq!(outcomes(other, "release_claims", &[&back.claim, &later.claim]), ["released"; 2]);
    }
}

#[test]
fn claim_finds_at_once_what_a_slow_transaction_adds() {
    let (_cluster, db) = own_cluster("slow-tasks", &PREPARED);
    let (client, other) = (&mut db.connect(), &mut db.connect());
    // A transaction that creates a queue blocks others that would.
    enqueue(client, "default", 1);
    claim_one(client, "default");
    for end in ["COMMIT", "PREPARE TRANSACTION 'slow'; COMMIT PREPARED 'slow'"] {
        client.batch_execute("BEGIN").unwrap();
        let slow = enqueue(client, "default", 1)[0];
        enqueue(other, "default", 3);
        (0..3).for_each(|_| _ = claim_one(other, "default"));
        assert!(claim(other, "default", 1).is_empty());
        end.split("; ").for_each(|step| client.batch_execute(step).unwrap());
        assert_eq!(claim_one(other, "default").id, slow, "{end}");
    }
}

/// The looks of a session that waits for tasks, while another one commits a hundred prepared transactions.
fn looks_during_commits(db: &Db, work: &str) -> i64 {
    let (mut waiter, other) = (db.connect(), &mut db.connect());
    waiter.batch_execute("SET track_functions = 'all'").unwrap();
    let pid: i32 = waiter.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_user_functions WHERE funcname = 'seconds_to_task'";
    let before: i64 = other.query_one(calls, &[]).unwrap().get(0);
    std::thread::scope(|scope| {
        scope.spawn(|| waiter.execute("CALL workflow.wait_for_tasks('{nowhere}', '60 s')", &[]).unwrap_err());
        for n in 0..100 {
            other.batch_execute("BEGIN").unwrap();
            other.batch_execute(&work.replace('#', &n.to_string())).unwrap();
            other.batch_execute("PREPARE TRANSACTION 'work'").unwrap();
            other.batch_execute("COMMIT PREPARED 'work'").unwrap();
        }
        // At its end a session reports its counts.
        other.query("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    });
    let lives = "SELECT FROM pg_stat_activity WHERE pid = $1";
    wait_until("the end of the session", || other.query(lives, &[&pid]).unwrap().is_empty());
    other.query_one(calls, &[]).unwrap().get::<_, i64>(0) - before
}

#[test]
fn prepared_transactions_of_others_wake_no_waiter() {
    let (_cluster, db) = own_cluster("others-prepared", &PREPARED);
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    client.batch_execute("CREATE TABLE other (n int)").unwrap();
    let others = looks_during_commits(&db, "INSERT INTO other VALUES (1)");
    assert!(others < 30, "{others} looks");
    let create = format!("SELECT workflow.create_task_instances('{run}', '{{t#}}', queue => 'default')");
    let own = looks_during_commits(&db, &create);
    // On a busy machine, several commits wake it once.
    assert!(own > others + 5, "{own} looks");
}

/// It is not known what a transaction has written that was prepared before the start of the server.
#[test]
fn transaction_that_was_prepared_before_a_restart_is_found() {
    let (cluster, db) = own_cluster("prepared-before", &PREPARED);
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    claim_one(client, "default");
    client.batch_execute("BEGIN").unwrap();
    let slow = enqueue(client, "default", 1)[0];
    client.batch_execute("PREPARE TRANSACTION 'slow'").unwrap();
    cluster.stop(Shutdown::Fast).unwrap();
    cluster.start_again().unwrap();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    claim_one(client, "default");
    assert!(claim(client, "default", 1).is_empty());
    client.batch_execute("COMMIT PREPARED 'slow'").unwrap();
    assert_eq!(claim_one(client, "default").id, slow);
}

#[test]
fn more_queues_than_there_is_room_for_lose_nothing() {
    let db = Db::new();
    let client = &mut db.connect();
    let names: Vec<String> = (0..600).map(|n| format!("queue {n}")).collect();
    let mut transaction = client.transaction().unwrap();
    let run: uuid::Uuid = transaction
        .query_one("SELECT workflow.create_dag_run(workflow.create_dag('many queues'))", &[])
        .unwrap()
        .get(0);
    for name in &names {
        let sql = "SELECT workflow.create_task_instances($1, ARRAY[$2], queue => $2)";
        transaction.query(sql, &[&run, name]).unwrap();
    }
    transaction.commit().unwrap();
    for round in 0..2 {
        for name in &names {
            assert_eq!(claim(client, name, 2).len(), usize::from(round == 0), "{name}");
        }
    }
}
