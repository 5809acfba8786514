//! The cost of a call depends on its result, not on the age of the statistics: PostgreSQL analyzes a new partition late.

use crate::feed::follow::current_position;
use pg_workflow_tests::*;
use postgres::Client;
use uuid::Uuid;

const TASKS: usize = 1_000;

/// A database whose statistics are from its first transaction, and whose history has grown since by 100,000 events.
fn grown() -> (Db, Vec<Uuid>) {
    let db = Db::new();
    let client = &mut db.connect();
    client
        .batch_execute(
            "ALTER TABLE workflow.state_history_0 SET (autovacuum_enabled = false);
             ALTER TABLE workflow.task_instances SET (autovacuum_enabled = false);
             ALTER TABLE workflow.dag_runs SET (autovacuum_enabled = false)",
        )
        .unwrap();
    let tasks = create_tasks(client, TASKS);
    client.batch_execute("ANALYZE; SELECT workflow.create_consumer('reader')").unwrap();
    (db, tasks)
}

fn grow(client: &mut Client, tasks: &[Uuid]) {
    for n in 0..100 {
        let to = ["running", "retrying"][n % 2];
        let sql = "SELECT count(*) FROM workflow.transition_many('task_instance', $1, null, $2)";
        client.query_one(sql, &[&tasks, &to]).unwrap();
    }
}

/// Reads all that the consumer has not had.
fn drain(client: &mut Client) {
    let read = "SELECT max(id) FROM workflow.read_events('reader', 10000)";
    while let Some(last) = client.query_one(read, &[]).unwrap().get::<_, Option<i64>>(0) {
        client.query_one("SELECT workflow.ack_events('reader', $1)", &[&last]).unwrap();
    }
}

#[test]
fn stale_statistics_make_no_call_read_the_history() {
    let (db, tasks) = grown();
    let client = &mut db.connect();
    let (late, others) = tasks.split_at(2);
    // These have no dead row versions, which PostgreSQL would have to pass.
    let (calm, others) = others.split_at(20);
    // They began before the history grew, and their events come late.
    let mut holders = [db.connect(), db.connect()];
    for (holder, task) in holders.iter_mut().zip(late) {
        holder.batch_execute("BEGIN").unwrap();
        start_task(holder, *task);
    }
    grow(client, others);
    drain(client);
    let position = current_position(client);
    let pages: i64 =
        client.query_one("SELECT pg_relation_size('workflow.state_history_0') / 8192", &[]).unwrap().get(0);
    let (task, several) = (calm[0], calm[..10].iter().map(Uuid::to_string).collect::<Vec<_>>().join(","));
    let run: Uuid =
        client.query_one("SELECT dag_run_id FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap().get(0);
    let calls = [
        "SELECT * FROM workflow.read_events('reader', 10)".to_owned(),
        format!("SELECT * FROM workflow.follow_events('{position}', 10)"),
        "SELECT workflow.consumer_has_events('reader')".to_owned(),
        format!("SELECT workflow.position_has_events('{position}')"),
        "SELECT workflow.current_position()".to_owned(),
        "SELECT * FROM workflow.consumer_lag".to_owned(),
        format!("SELECT workflow.transition('task_instance', '{task}', 'queued', 'running')"),
        format!("SELECT workflow.transition('task_instance', '{task}', 'queued', 'running', request_id => 'r')"),
        format!("SELECT * FROM workflow.transition_many('task_instance', '{{{several}}}', null, 'running')"),
        format!("SELECT * FROM workflow.create_task_instances('{run}', '{{one,two}}')"),
        format!("UPDATE workflow.task_instances SET state = 'running' WHERE id = '{task}'"),
        format!("DELETE FROM workflow.task_instances WHERE id = '{task}'"),
        format!("SELECT workflow.state_at('task_instance', '{task}', now())"),
        format!("SELECT * FROM workflow.state_history WHERE entity_id = '{task}' ORDER BY version DESC LIMIT 10"),
        "SELECT * FROM workflow.state_history ORDER BY id DESC LIMIT 10".to_owned(),
    ];
    let mut report = Vec::new();
    // In a new session each: a session keeps the plans that it made when the tables were small.
    for moment in ["in progress", "committed"] {
        for call in &calls {
            report.push((buffers(&mut db.connect(), call), format!("{moment}: {call}")));
        }
        holders.iter_mut().for_each(|holder| holder.batch_execute("COMMIT").unwrap());
    }
    report.iter().for_each(|(used, call)| eprintln!("{used:7} of {pages}: {}", &call[..call.len().min(110)]));
    let costly: Vec<_> = report.iter().filter(|(used, _)| *used > pages / 4).collect();
    assert!(costly.is_empty(), "{costly:#?}");
}
