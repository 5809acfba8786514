//! The order in which tasks are claimed.

use super::{claim, claim_one, enqueue, names};
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

/// Creates a task that waits since so many seconds.
fn enqueue_at(client: &mut Client, name: &str, priority: i32, seconds_ago: i32) {
    let (_, run) = create_run(client);
    let sql = "SELECT workflow.create_task_instances($1, ARRAY[$2], queue => 'default', priority => $3)";
    client.query(sql, &[&run, &name, &priority]).unwrap();
    let sql = "UPDATE workflow.ready SET ready_at = now() - make_interval(secs => $1)
               WHERE task_instance_id = (SELECT id FROM workflow.task_instances WHERE task_id = $2)";
    assert_eq!(client.execute(sql, &[&f64::from(seconds_ago), &name]).unwrap(), 1);
}

#[test]
fn priority_then_time_decides() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue_at(client, "low and old", 9, 100);
    enqueue_at(client, "new", 5, 1);
    enqueue_at(client, "high", 0, 0);
    enqueue_at(client, "old", 5, 10);
    enqueue_at(client, "high, not due", 0, -3600);
    enqueue_at(client, "middle, not due", 5, -3600);
    assert_eq!(names(&claim(client, "default", 10)), ["high", "old", "new", "low and old"]);
    assert!(claim(client, "default", 10).is_empty());
    // No commit reports this: a claim finds it that looks from the beginning.
    client.batch_execute("UPDATE workflow.ready SET ready_at = now()").unwrap();
    let mut found = Vec::new();
    wait_until("a claim looks from the beginning", || {
        found.extend(claim(client, "default", 10).into_iter().map(|task| task.task_id));
        found.len() == 2
    });
    assert_eq!(found, ["high, not due", "middle, not due"]);
}

#[test]
fn every_16th_claim_takes_the_oldest_of_all() {
    let db = Db::new();
    let client = &mut db.connect();
    for n in 0..40 {
        enqueue_at(client, &format!("high {n}"), 1, 50);
    }
    enqueue_at(client, "low", 8, 100);
    enqueue_at(client, "lowest", 9, 99);
    let taken: Vec<String> = (0..32).map(|_| claim_one(client, "default").task_id).collect();
    let low: Vec<usize> = (0..32).filter(|n| taken[*n].starts_with("low")).collect();
    assert_eq!(low, [15, 31], "{taken:?}");
}

#[test]
fn queues_are_claimed_in_the_order_of_the_argument() {
    let db = Db::new();
    let client = &mut db.connect();
    for queue in ["a", "b", "c"] {
        enqueue(client, queue, 2);
    }
    let sql = "SELECT task_id FROM workflow.claim_tasks('worker', '{c,none,a}', 3)";
    let taken: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(taken, ["c_0", "c_1", "a_0"]);
}

/// Also of a queue that is not the last one of the call.
#[test]
fn every_16th_claim_from_several_queues_takes_the_oldest_of_all() {
    let db = Db::new();
    let client = &mut db.connect();
    for n in 0..40 {
        enqueue_at(client, &format!("high {n}"), 1, 50);
    }
    enqueue_at(client, "low", 9, 100);
    client.batch_execute("SELECT workflow.set_queue('default', slots => 1)").unwrap();
    enqueue(client, "other", 40);
    let sql = "SELECT claim, task_id FROM workflow.claim_tasks('worker', '{default,other}', 2)";
    let mut taken = Vec::new();
    for _ in 0..16 {
        for row in client.query(sql, &[]).unwrap() {
            taken.push(row.get::<_, String>(1));
            client.query("SELECT workflow.complete_claim($1)", &[&row.get::<_, String>(0)]).unwrap();
        }
    }
    assert!(taken.contains(&"low".to_owned()), "{taken:?}");
}

/// A clock that was set back leaves tasks ready later than they should be.
#[test]
fn tasks_that_a_clock_has_hidden_are_recovered() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = enqueue(client, "default", 3);
    let later = "SELECT workflow.enqueue_task_instances(ARRAY[$1::uuid], not_before => now() + '1 hour')";
    client.query(later, &[&tasks[2]]).unwrap();
    // Not before a time that is past now.
    let past = "SELECT workflow.enqueue_task_instances(ARRAY[$1::uuid], not_before => now() - interval '1 hour')";
    client.query(past, &[&tasks[1]]).unwrap();
    client.batch_execute("UPDATE workflow.ready SET ready_at = greatest(ready_at, now() + interval '30 min')").unwrap();
    assert!(claim(client, "default", 3).is_empty());
    let hidden = "SELECT entity_id FROM workflow.verify() WHERE problem = 'no claim finds it' ORDER BY 1";
    let hidden: Vec<Uuid> = client.query(hidden, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(hidden, tasks[..2]);
    let recover = "SELECT workflow.recover_ready()";
    assert_eq!(client.query_one(recover, &[]).unwrap().get::<_, i64>(0), 2);
    assert_eq!(client.query_one(recover, &[]).unwrap().get::<_, i64>(0), 0);
    let claimed: Vec<Uuid> = claim(client, "default", 3).into_iter().map(|task| task.id).collect();
    assert_eq!(claimed, tasks[..2]);
}
