//! What claim_tasks() takes, and what it leaves.

use super::{claim, claim_one, enqueue, enqueue_in, names, outcomes, state_of};
use pg_workflow_tests::*;
use postgres::error::SqlState;
use uuid::Uuid;

#[test]
fn claim_moves_task_and_tells_what_a_worker_needs() {
    let db = Db::new();
    let client = &mut db.connect();
    let sql = "SELECT workflow.create_dag_run(workflow.create_dag('etl'), now(), '{\"region\": \"eu\"}')";
    let run: Uuid = client.query_one(sql, &[]).unwrap().get(0);
    let sql = "SELECT id FROM workflow.create_task_instances($1, '{load}', queue => 'default', timeout => '1 h')";
    let task: Uuid = client.query_one(sql, &[&run]).unwrap().get(0);
    let row = client
        .query_one(
            "SELECT c.*, c.conf->>'region', c.timeout = '1 h', c.lease_expires_at - clock_timestamp() BETWEEN '59 s' AND '60 s',
                 t.state, t.version, t.worker, t.start_date + '1 min' - t.lease_expires_at BETWEEN '0' AND '1 s',
                 d.name, c.dag_run_id = t.dag_run_id
             FROM workflow.claim_tasks('host 1', lease => '1 min') AS c
             JOIN workflow.dags AS d ON d.id = c.dag_id
             -- The function runs before this is read.
             LEFT JOIN LATERAL (SELECT * FROM workflow.task_instances WHERE id = c.id AND c.claim IS NOT NULL) AS t ON true",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, Uuid>("id"), row.get::<_, String>("task_id")), (task, "load".to_owned()));
    assert_eq!(row.get::<_, i32>("try_number"), 1);
    let region: String = row.get(9);
    assert_eq!((region, row.get::<_, bool>(10), row.get::<_, bool>(11)), ("eu".to_owned(), true, true));
    let row = client
        .query_one(
            "SELECT t.state, t.version, t.worker, h.metadata->>'worker', h.old_state
             FROM workflow.task_instances AS t JOIN workflow.state_history AS h ON h.entity_id = t.id AND h.version = 2
             WHERE t.id = $1",
            &[&task],
        )
        .unwrap();
    let texts = [0, 2, 3, 4].map(|column| row.get::<_, String>(column));
    assert_eq!(texts, ["running", "host 1", "host 1", "queued"].map(str::to_owned));
    assert_eq!(row.get::<_, i64>(1), 2);
    assert!(claim(client, "default", 10).is_empty(), "nothing is left");
    assert_eq!(client.query("SELECT FROM workflow.ready", &[]).unwrap().len(), 0);
}

#[test]
fn tasks_without_a_queue_are_not_claimed() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    enqueue(client, "default", 1);
    assert_eq!(claim(client, "default", 10).len(), 1);
    let sql = "SELECT outcome FROM workflow.enqueue_task_instances(ARRAY[$1::uuid])";
    assert_eq!(client.query_one(sql, &[&task]).unwrap().get::<_, String>(0), "enqueued");
    assert_eq!(claim_one(client, "default").id, task);
    assert_eq!(client.query_one(sql, &[&task]).unwrap().get::<_, String>(0), "stale");
    assert_eq!(client.query_one(sql, &[&Uuid::new_v4()]).unwrap().get::<_, String>(0), "missing");
    let nested = "SELECT workflow.enqueue_task_instances(ARRAY[ARRAY[$1::uuid]])";
    let error = client.query(nested, &[&task]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{error:?}");
}

#[test]
fn claimers_share_the_tasks_and_wait_for_nobody() {
    let db = Db::new();
    let (client, other) = (&mut db.connect(), &mut db.connect());
    let tasks = enqueue(client, "default", 10);
    other.batch_execute("SET lock_timeout = '1 s'").unwrap();
    let mut first = client.transaction().unwrap();
    let taken = claim(&mut first, "default", 4);
    assert_eq!(taken.len(), 4);
    // A transition by hand that is not committed.
    let third = &mut db.connect();
    let mut by_hand = third.transaction().unwrap();
    start_task(&mut by_hand, tasks[5]);
    let rest = claim(other, "default", 10);
    assert_eq!(names(&rest), ["default_4", "default_6", "default_7", "default_8", "default_9"]);
    by_hand.rollback().unwrap();
    first.rollback().unwrap();
    let back = claim(other, "default", 10);
    assert_eq!(names(&back), ["default_0", "default_1", "default_2", "default_3", "default_5"]);
}

#[test]
fn move_by_hand_takes_a_task_out_of_its_queue() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = enqueue(client, "default", 2);
    start_task(client, tasks[0]);
    assert_eq!(names(&claim(client, "default", 10)), ["default_1"]);
    // Back into the queue by hand: at once, or when the statement says.
    let to_retrying = "UPDATE workflow.task_instances SET state = 'retrying', not_before = $2 WHERE id = $1";
    client.execute(to_retrying, &[&tasks[0], &None::<std::time::SystemTime>]).unwrap();
    assert_eq!(claim_one(client, "default").id, tasks[0]);
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    client.execute(to_retrying, &[&tasks[0], &Some(later)]).unwrap();
    assert!(claim(client, "default", 10).is_empty());
    client.execute("UPDATE workflow.task_instances SET not_before = NULL WHERE id = $1", &[&tasks[0]]).unwrap();
    let last = claim_one(client, "default");
    assert_eq!((last.id, last.try_number), (tasks[0], 3));
    // The row for the later time is dropped when a claim meets it.
    let sql = "UPDATE workflow.ready SET ready_at = now()";
    assert_eq!(client.execute(sql, &[]).unwrap(), 1);
    assert!(claim(client, "default", 10).is_empty());
    assert_eq!(client.query("SELECT FROM workflow.ready", &[]).unwrap().len(), 0);
}

#[test]
fn paused_dag_and_ended_run_are_not_claimed_until_they_come_back() {
    let db = Db::new();
    let client = &mut db.connect();
    let (dag, run) = create_run(client);
    enqueue_in(client, run, "default", 150);
    let other = enqueue(client, "default", 1)[0];
    client.query("SELECT workflow.pause_dag($1)", &[&dag]).unwrap();
    // A call removes at most 100 from the way.
    assert!(claim(client, "default", 1).is_empty());
    assert_eq!(claim_one(client, "default").id, other);
    let parked = "SELECT count(*) FROM workflow.parked";
    assert_eq!(client.query_one(parked, &[]).unwrap().get::<_, i64>(0), 150);
    client.execute("UPDATE workflow.dags SET is_paused = false WHERE id = $1", &[&dag]).unwrap();
    assert_eq!(claim(client, "default", 1).len(), 1);

    for (from, to) in [("queued", "running"), ("running", "failed")] {
        client.query("SELECT workflow.transition('dag_run', $1, $2, $3)", &[&run, &from, &to]).unwrap();
    }
    while !claim(client, "default", 1).is_empty() || client.query_one(parked, &[]).unwrap().get::<_, i64>(0) < 149 {}
    client.query("SELECT workflow.transition('dag_run', $1, 'failed', 'retrying')", &[&run]).unwrap();
    assert_eq!(claim(client, "default", 1000).len(), 149);
}

#[test]
fn whoever_unpauses_finds_what_a_claim_parks_meanwhile() {
    let db = Db::new();
    let (client, other) = (&mut db.connect(), &mut db.connect());
    let (dag, run) = create_run(client);
    enqueue_in(client, run, "default", 1);
    client.query("SELECT workflow.pause_dag($1)", &[&dag]).unwrap();
    let mut parking = other.transaction().unwrap();
    assert!(claim(&mut parking, "default", 1).is_empty());
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    std::thread::scope(|scope| {
        let unpausing = scope.spawn(|| client.query("SELECT workflow.unpause_dag($1)", &[&dag]).unwrap());
        let waits = "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
        let watcher = &mut db.connect();
        wait_until("the session waits", || watcher.query(waits, &[&pid]).unwrap().len() == 1);
        parking.commit().unwrap();
        unpausing.join().unwrap();
    });
    assert_eq!(claim(client, "default", 1).len(), 1);

    // The other way round: nothing is parked while the DAG is being unpaused.
    outcomes(client, "release_claims", &[]);
    let (dag, run) = create_run(client);
    enqueue_in(client, run, "default", 1);
    client.query("SELECT workflow.pause_dag($1)", &[&dag]).unwrap();
    let mut unpausing = client.transaction().unwrap();
    unpausing.query("SELECT workflow.unpause_dag($1)", &[&dag]).unwrap();
    assert!(claim(other, "default", 1).is_empty());
    unpausing.commit().unwrap();
    assert_eq!(claim(other, "default", 1).len(), 1);
}

/// A task that went to another priority and back has two rows in its lane. Two claims can meet one each.
#[test]
fn two_claims_park_one_task_without_waiting() {
    let db = Db::new();
    let (client, other) = (&mut db.connect(), &mut db.connect());
    let (dag, run) = create_run(client);
    let task = enqueue_in(client, run, "default", 1)[0];
    let names: Vec<String> = (0..100).map(|n| format!("between {n}")).collect();
    let sql = "SELECT FROM workflow.create_task_instances($1, $2, queue => 'default')";
    client.query(sql, &[&run, &names]).unwrap();
    for priority in [6, 5] {
        let sql = "SELECT FROM workflow.enqueue_task_instances(ARRAY[$1::uuid], priority => $2)";
        client.query(sql, &[&task, &priority]).unwrap();
    }
    client.query("SELECT workflow.pause_dag($1)", &[&dag]).unwrap();
    other.batch_execute("SET lock_timeout = '1 s'").unwrap();
    let mut parking = client.transaction().unwrap();
    assert!(claim(&mut parking, "default", 1).is_empty());
    assert!(claim(other, "default", 1).is_empty());
    parking.commit().unwrap();
    assert!(claim(other, "default", 1).is_empty());
    other.query("SELECT workflow.unpause_dag($1)", &[&dag]).unwrap();
    assert_eq!(claim(other, "default", 1000).len(), 101);
}

#[test]
fn parked_tasks_come_back_at_every_isolation_level() {
    let db = Db::new();
    let (client, other) = (&mut db.connect(), &mut db.connect());
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let (dag, run) = create_run(client);
        enqueue_in(client, run, "default", 1);
        client.query("SELECT workflow.pause_dag($1)", &[&dag]).unwrap();
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT FROM workflow.dags")).unwrap();
        assert!(claim(other, "default", 1).is_empty());
        client.execute("UPDATE workflow.dags SET is_paused = false WHERE id = $1", &[&dag]).unwrap();
        client.batch_execute("COMMIT").unwrap();
        assert_eq!(claim(other, "default", 1).len(), 1, "{level}");
    }
    // Where no trigger fires, verify() tells, and recover_ready() brings them back.
    let (dag, run) = create_run(client);
    enqueue_in(client, run, "default", 1);
    client.query("SELECT workflow.pause_dag($1)", &[&dag]).unwrap();
    assert!(claim(client, "default", 1).is_empty());
    let unseen = "SET session_replication_role = replica; UPDATE workflow.dags SET is_paused = false; RESET session_replication_role";
    client.batch_execute(unseen).unwrap();
    let lost = client.query("SELECT problem FROM workflow.verify()", &[]).unwrap();
    assert_eq!(lost.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), ["no claim finds it"]);
    assert_eq!(client.query_one("SELECT workflow.recover_ready()", &[]).unwrap().get::<_, i64>(0), 1);
    assert_eq!(claim(client, "default", 1).len(), 1);
}

#[test]
fn claims_are_refused_where_they_could_not_hold() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    for (begin, code) in [
        ("BEGIN ISOLATION LEVEL REPEATABLE READ", SqlState::ACTIVE_SQL_TRANSACTION),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", SqlState::ACTIVE_SQL_TRANSACTION),
        ("BEGIN READ ONLY", SqlState::READ_ONLY_SQL_TRANSACTION),
    ] {
        client.batch_execute(begin).unwrap();
        let error = client.query("SELECT workflow.claim_tasks('worker')", &[]).unwrap_err();
        assert_eq!(error.code(), Some(&code), "{begin}: {error:?}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    for arguments in [
        "NULL",
        "' '",
        "repeat('x', 251)",
        "'w', NULL",
        "'w', ARRAY[NULL]",
        "'w', ARRAY['']",
        "'w', max => 0",
        "'w', max => NULL",
        "'w', max => 10001",
        "'w', lease => '0'",
        "'w', lease => '-1 s'",
        "'w', lease => NULL",
        "'w', lease => '200 years'",
    ] {
        let error = client.query(&format!("SELECT workflow.claim_tasks({arguments})"), &[]).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PARAMETER_VALUE), "{arguments}: {error:?}");
    }
    assert_eq!(claim(client, "default", 10).len(), 1, "nothing was half-done");
}

#[test]
fn task_that_the_transaction_created_can_be_claimed_in_it() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("BEGIN").unwrap();
    let task = enqueue(client, "default", 1)[0];
    let claimed = claim_one(client, "default");
    assert_eq!(claimed.id, task);
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(state_of(client, task), "running");
    client.query("SELECT workflow.complete_claim($1)", &[&claimed.claim]).unwrap();
}

#[test]
fn deleted_task_is_not_claimed() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = enqueue(client, "default", 2);
    client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&tasks[0]]).unwrap();
    assert_eq!(names(&claim(client, "default", 10)), ["default_1"]);
    assert_eq!(client.query("SELECT FROM workflow.ready", &[]).unwrap().len(), 0);
}

/// Idle workers ask often: an ID for each would use them up, and write WAL.
#[test]
fn claim_that_finds_nothing_gets_no_transaction_id() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "default", 1);
    let mut id_after = |sql: &str| -> Option<String> {
        let mut transaction = client.transaction().unwrap();
        transaction.query(sql, &[]).unwrap();
        let id = "SELECT pg_current_xact_id_if_assigned()::text";
        let id = transaction.query_one(id, &[]).unwrap().get(0);
        transaction.commit().unwrap();
        id
    };
    assert!(id_after("SELECT workflow.claim_tasks('w1')").is_some());
    for _ in 0..20 {
        assert_eq!(id_after("SELECT workflow.claim_tasks('w1')"), None);
    }
}
