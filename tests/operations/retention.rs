//! Partitions of the history and the logs, and purge().

use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

type Row = (String, i64, String);

fn purge(client: &mut Client, before: &str, dry_run: bool) -> Vec<Row> {
    let sql = format!("SELECT object, rows, outcome FROM workflow.purge({before}, $1)");
    client.query(&sql, &[&dry_run]).unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn row(object: &str, rows: i64, outcome: &str) -> Row {
    (object.to_owned(), rows, outcome.to_owned())
}

/// Creates a finished run with two tasks, which have one log line each.
fn finished_run(client: &mut Client) -> (Uuid, Vec<Uuid>) {
    let tasks = create_tasks(client, 2);
    let run: Uuid =
        client.query_one("SELECT dag_run_id FROM workflow.task_instances WHERE id = $1", &[&tasks[0]]).unwrap().get(0);
    for task in &tasks {
        client.query_one("SELECT workflow.append_task_log($1, 'a line')", &[task]).unwrap();
    }
    for (from, to) in [(State::Queued, State::Running), (State::Running, State::Success)] {
        for task in &tasks {
            Transition::of(*task).from(from).to(to).run(client).unwrap();
        }
        Transition::of_run(run).from(from).to(to).run(client).unwrap();
    }
    (run, tasks)
}

fn partitions(client: &mut Client, table: &str) -> Vec<(i64, String)> {
    let sql = "SELECT number, role FROM workflow.partitions WHERE table_name = $1 ORDER BY number";
    client.query(sql, &[&table]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn new_month_switches_to_new_partitions() {
    let db = Db::new();
    let client = &mut db.connect();
    client
        .batch_execute("SELECT workflow.create_consumer('reader', true); SELECT workflow.fold_state_counts()")
        .unwrap();
    let here: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    assert_eq!(partitions(client, "state_history"), [(0, "current".to_owned()), (1, "next".to_owned())]);
    let task = create_in_state(client, "task_instance", State::Running);
    assert!(client.query("SELECT FROM workflow.open_partitions()", &[]).unwrap().is_empty(), "the month is not over");
    age(client);
    let outcomes = |client: &mut Client| -> Vec<(String, String)> {
        let rows = client.query("SELECT partition, outcome FROM workflow.open_partitions()", &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let step = |partition: &str, outcome: &str| (partition.to_owned(), outcome.to_owned());
    assert_eq!(outcomes(client), [step("state_history_1", "opened")]);
    assert_eq!(outcomes(client), [step("state_history_2", "made"), step("task_logs_1", "opened")]);
    assert_eq!(outcomes(client), [step("task_logs_2", "made")]);
    assert_eq!(outcomes(client), []);
    let roles = [(0, "past".to_owned()), (1, "current".to_owned()), (2, "next".to_owned())];
    assert_eq!(partitions(client, "state_history"), roles);
    assert_eq!(partitions(client, "task_logs"), roles);

    Transition::of(task).from(State::Running).to(State::Failed).run(client).unwrap();
    let sql = "SELECT tableoid::regclass::text FROM workflow.state_history WHERE entity_id = $1 ORDER BY version";
    let partitions: Vec<String> = client.query(sql, &[&task]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(partitions, ["workflow.state_history_0", "workflow.state_history_0", "workflow.state_history_1"]);
    let versions = |rows: Vec<postgres::Row>| -> Vec<i64> { rows.iter().map(|row| row.get(0)).collect() };
    let of_task = "WHERE entity_id = $1";
    let sql = format!("SELECT version FROM workflow.read_events('reader') {of_task}");
    assert_eq!(versions(client.query(&sql, &[&task]).unwrap()), [1, 2, 3]);
    let sql = format!("SELECT version FROM workflow.follow_events('{here}') {of_task}");
    assert_eq!(versions(client.query(&sql, &[&task]).unwrap()), [1, 2, 3]);
    assert_eq!(
        versions(client.query("SELECT version FROM workflow.history('task_instance', $1)", &[&task]).unwrap()),
        [3, 2, 1]
    );
}

#[test]
fn concurrent_writes_always_find_a_partition() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.create_consumer('reader', true)").unwrap();
    let done = AtomicBool::new(false);
    let longest = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                scope.spawn({
                    let (db, done) = (&db, &done);
                    move || write_until(db, done, writer % 2 == 0)
                })
            })
            .collect();
        for _ in 0..5 {
            next_partition(client);
        }
        done.store(true, Ordering::Release);
        writers.into_iter().map(|writer| writer.join().unwrap()).max().unwrap()
    });
    assert!(longest < Duration::from_secs(5), "a write took {longest:?}");
    let sql = "SELECT count(DISTINCT (entity_id, version)) - (SELECT count(*) FROM workflow.state_history) FROM workflow.read_events('reader', 10000000)";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 0, "each event is read exactly once");
    let sql = "SELECT count(*) FROM workflow.partitions WHERE table_name = 'state_history'";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 7);
}

/// Creates and moves tasks, also in transactions that span a switch to a new partition; returns the longest time of a
/// statement.
fn write_until(db: &Db, done: &AtomicBool, in_transactions: bool) -> Duration {
    let (mut client, mut longest) = (db.connect(), Duration::ZERO);
    while !done.load(Ordering::Acquire) {
        let mut transaction = client.transaction().unwrap();
        for _ in 0..if in_transactions { 20 } else { 1 } {
            let began = Instant::now();
            let sql = "SELECT i.id, workflow.append_task_log(i.id, 'a line') FROM workflow.create_task_instances(
                workflow.create_dag_run(workflow.create_dag(gen_random_uuid()::text)), ARRAY['a']) AS c
                JOIN workflow.task_instances AS i ON i.id = c.id";
            // Rows are not visible in the statement that creates them.
            assert!(transaction.query(sql, &[]).unwrap().len() <= 1);
            transaction.execute("UPDATE workflow.dag_runs SET state = 'running' WHERE state = 'queued' AND xmin = pg_current_xact_id()::xid", &[]).unwrap();
            longest = longest.max(began.elapsed());
        }
        transaction.commit().unwrap();
    }
    longest
}

#[test]
fn table_in_use_delays_partition_switch_without_blocking() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", State::Running);
    age(client);
    let mut reader = db.connect();
    let mut reading = reader.transaction().unwrap();
    reading.query("SELECT count(*) FROM workflow.state_history", &[]).unwrap();
    let sql = "SELECT outcome FROM workflow.open_partitions()";
    let outcome: String = client.query_one(sql, &[]).unwrap().get(0);
    assert_eq!(outcome, "not opened: the table is in use, try again");
    Transition::of(task).from(State::Running).to(State::Success).run(client).unwrap();
    reading.commit().unwrap();
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, String>(0), "opened");
    // A rollback would undo the partition but not the sequence, so a statement that has written does nothing.
    let after_write = "WITH dag AS MATERIALIZED (SELECT workflow.create_dag('x') AS id)
        SELECT o.outcome FROM dag CROSS JOIN LATERAL workflow.open_partitions(CASE WHEN dag.id IS NOT NULL THEN 'month' END) AS o";
    assert!(client.query(after_write, &[]).unwrap().is_empty());
    let wrong = failure(client.query("SELECT workflow.open_partitions('fortnight')", &[]));
    assert_eq!((wrong.sqlstate.as_str(), wrong.detail["argument"].as_str()), ("22023", Some("period")));
}

#[test]
fn purge_removes_finished_runs_in_batches_and_counts_them() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    let old: Vec<_> = (0..3).map(|_| finished_run(client)).collect();
    let moving = create_in_state(client, "dag_run", State::Running);
    let failed = create_in_state(client, "dag_run", State::Failed);
    // A finished run with a task that is still running.
    let (busy, tasks) = finished_run(client);
    client.query("SELECT workflow.create_task_instances($1, ARRAY['late'])", &[&busy]).unwrap();
    client.execute("UPDATE workflow.task_instances SET state = 'running' WHERE task_id = 'late'", &[]).unwrap();
    age(client);
    let (recent, _) = finished_run(client);
    let before = "now() - interval '30 days'";
    let expected =
        |outcome: &str| [row("dag_runs", 4, outcome), row("task_instances", 6, outcome), row("task_logs", 6, outcome)];
    assert_eq!(purge(client, before, true), expected("would be removed"));
    assert_eq!(purge(client, before, true), expected("would be removed"), "a dry run changes nothing");

    let sql = format!("SELECT rows FROM workflow.purge({before}, max_runs => 3)");
    let rows: Vec<i64> = client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, [3, 6, 6], "a batch");
    assert_eq!(purge(client, before, false)[0], row("dag_runs", 1, "removed"));
    assert_eq!(purge(client, before, false)[0], row("dag_runs", 0, "removed"));
    let left: Vec<Uuid> = client
        .query("SELECT id FROM workflow.dag_runs ORDER BY id", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let mut kept = vec![moving, busy, recent];
    kept.sort();
    assert_eq!(left, kept, "{failed} and {old:?} are purged");
    assert_eq!(history_len(client, old[0].1[0]), 3, "the history outlives the tasks");
    assert_eq!(history_len(client, tasks[0]), 3);

    for (arguments, argument) in [("NULL", "before"), ("now(), NULL", "dry_run"), ("now(), false, 0", "max_runs")] {
        let wrong = failure(client.query(&format!("SELECT workflow.purge({arguments})"), &[]));
        assert_eq!((wrong.sqlstate.as_str(), wrong.detail["argument"].as_str()), ("22023", Some(argument)));
    }
}

#[test]
fn purge_skips_locked_runs_without_waiting() {
    let db = Db::new();
    let client = &mut db.connect();
    let (run, _) = finished_run(client);
    let failed = create_in_state(client, "dag_run", State::Failed);
    age(client);
    let mut scheduler = db.connect();
    let mut transaction = scheduler.transaction().unwrap();
    Transition::of_run(failed).from(State::Failed).to(State::Retrying).run(&mut transaction).unwrap();
    assert_eq!(purge(client, "now() - interval '30 days'", false)[0], row("dag_runs", 1, "removed"), "only {run}");
    transaction.commit().unwrap();
    assert_eq!(purge(client, "now() - interval '30 days'", false)[0], row("dag_runs", 0, "removed"));
    assert_eq!(state_of(client, "dag_run", failed).0, "retrying");
}

#[test]
fn partition_is_dropped_after_all_consumers_read_it() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("SET pg_workflow.max_consumer_lag = 0").unwrap();
    let position: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    client
        .batch_execute("SELECT workflow.create_consumer('reader', true); SELECT workflow.fold_state_counts()")
        .unwrap();
    let running = create_in_state(client, "task_instance", State::Running);
    finished_run(client);
    age(client);
    let last: i64 = client.query_one("SELECT max(id) FROM workflow.state_history", &[]).unwrap().get(0);
    open_partitions(client);
    let before = "now() - interval '30 days'";
    let history =
        |rows: Vec<Row>| -> Vec<Row> { rows.into_iter().filter(|row| row.0.starts_with("state_history")).collect() };
    let outcome = |outcome: &str| [row("state_history_0", last, outcome)];

    purge(client, before, false);
    let unread = "kept: consumer \"reader\" has not acknowledged it";
    assert_eq!(history(purge(client, before, true)), outcome(unread));
    assert_eq!(history(purge(client, before, false)), outcome(unread));
    // Read, but not acknowledged.
    let ids: Vec<i64> = client
        .query("SELECT id FROM workflow.read_events('reader')", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(ids.len() as i64, last);
    assert_eq!(history(purge(client, before, false)), outcome(unread));
    client.query_one("SELECT workflow.save_checkpoint('reader', ARRAY[1::bigint])", &[]).unwrap();
    client.query_one("SELECT workflow.ack_events('reader', $1)", &[&last]).unwrap();
    assert_eq!(
        history(purge(client, before, false)),
        outcome("kept: consumer \"reader\" has a checkpoint before its end")
    );
    client.batch_execute("DELETE FROM workflow.consumer_checkpoints").unwrap();
    // The direct change of the history discarded the stored counts. This stores them again.
    client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    assert_eq!(history(purge(client, before, true)), outcome("would be dropped"));

    let mut scanner = db.connect();
    let mut scanning = scanner.transaction().unwrap();
    scanning.query("SELECT count(*) FROM workflow.state_history", &[]).unwrap();
    assert_eq!(history(purge(client, before, false)), outcome("kept: the table is in use, try again"));
    scanning.commit().unwrap();

    assert_eq!(history(purge(client, before, false)), outcome("dropped"));
    let freed = |rows: Vec<Row>| rows.into_iter().map(|row| (row.0, row.2)).collect::<Vec<_>>();
    let object = |outcome: &str| [("state_history_0".to_owned(), outcome.to_owned())];
    assert_eq!(freed(history(purge(client, before, true))), object("would be freed"));
    assert_eq!(freed(history(purge(client, before, false))), object("freed"));
    assert_eq!(history(purge(client, before, false)), []);
    assert_eq!(history_len(client, running), 0);
    // verify() reports no purged row, and does report rows that were deleted otherwise.
    assert_eq!(db.problems(), [""; 0]);
    Transition::of(running).from(State::Running).to(State::Success).run(client).unwrap();
    assert_eq!(db.problems(), [""; 0]);
    let task = create_in_state(client, "task_instance", State::Running);
    let mut transaction = client.transaction().unwrap();
    transaction.execute("DELETE FROM workflow.state_history WHERE entity_id = $1 AND version = 1", &[&task]).unwrap();
    let found = transaction.query("SELECT problem FROM workflow.verify()", &[]).unwrap();
    assert_eq!(found.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["version missing"]);
    transaction.rollback().unwrap();

    let refused = failure(client.query("SELECT * FROM workflow.follow_events($1)", &[&position]));
    assert_eq!(refused.sqlstate, "22023");
    assert!(refused.message.contains("have been purged"), "{}", refused.message);
    let after: Vec<i64> = client
        .query("SELECT version FROM workflow.read_events('reader')", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(after, [3, 1, 1, 2], "a consumer past the partition continues: one success, then a run and its task");
}

#[test]
fn log_partition_is_dropped_after_its_last_line() {
    let db = Db::new();
    let client = &mut db.connect();
    finished_run(client);
    age(client);
    open_partitions(client);
    let (_, tasks) = finished_run(client);
    let before = "now() - interval '30 days'";
    purge(client, before, false);
    assert_eq!(purge(client, before, true).last(), Some(&row("task_logs_0", 0, "would be dropped")));
    assert_eq!(purge(client, before, false).last(), Some(&row("task_logs_0", 0, "dropped")));
    let lines = client.query("SELECT FROM workflow.task_logs WHERE task_instance_id = ANY ($1)", &[&tasks]).unwrap();
    assert_eq!(lines.len(), 2);
    assert_eq!(partitions(client, "task_logs").iter().map(|row| row.0).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn missing_current_partition_is_made_again() {
    let db = Db::new();
    let client = &mut db.connect();
    next_partition(client);
    for table in ["state_history", "task_logs"] {
        let partition = format!("{table}_1");
        let sql = format!(
            "ALTER EXTENSION pg_workflow DROP TABLE workflow.{partition};
             ALTER TABLE workflow.{table} DETACH PARTITION workflow.{partition};
             DROP TABLE workflow.{partition}"
        );
        client.batch_execute(&sql).unwrap();
        let steps = client.query("SELECT partition, outcome FROM workflow.open_partitions()", &[]).unwrap();
        let steps: Vec<(String, String)> = steps.iter().map(|step| (step.get(0), step.get(1))).collect();
        assert_eq!(steps, [(partition, "made".to_owned())]);
        let task = create_task(client);
        client.query("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
        client.batch_execute("DELETE FROM workflow.task_logs").unwrap();
    }
}
