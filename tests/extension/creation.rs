//! Creating DAGs, runs, tasks and logs.

use chrono::{DateTime, Utc};
use pg_workflow_tests::*;
use serde_json::{Value, json};
use uuid::Uuid;

#[test]
fn creation_is_first_transition_in_history() {
    let db = Db::new();
    let client = &mut db.connect();
    let (dag, run) = create_run(client);
    let sql = "SELECT * FROM workflow.create_task_instances($1, ARRAY['b', 'a', 'c'], 3)";
    let tasks: Vec<(Uuid, String)> =
        client.query(sql, &[&run]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(tasks.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["b", "a", "c"]);
    assert!(tasks.is_sorted(), "ids are in creation order");
    let rows = client.query("SELECT * FROM workflow.state_history ORDER BY id", &[]).unwrap();
    assert_eq!(rows.len(), 4);
    for row in &rows {
        assert_eq!(row.get::<_, Option<String>>("old_state"), None);
        assert_eq!((row.get::<_, String>("new_state"), row.get::<_, i64>("version")), ("queued".into(), 1));
        assert_eq!((row.get::<_, Uuid>("dag_id"), row.get::<_, Uuid>("dag_run_id")), (dag, run));
    }
    assert_eq!(rows[1].get::<_, Option<String>>("task_id").as_deref(), Some("b"));
}

#[test]
fn latest_run_has_latest_execution_date() {
    let db = Db::new();
    let client = &mut db.connect();
    let dag: Uuid = client.query_one("SELECT workflow.create_dag('etl', tags => '[\"a\"]')", &[]).unwrap().get(0);
    assert_eq!(client.query("SELECT FROM workflow.latest_dag_run($1)", &[&dag]).unwrap().len(), 0);
    let dates = ["2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-01T00:00:00Z"];
    for date in dates.map(|date| date.parse::<DateTime<Utc>>().unwrap()) {
        client.query_one("SELECT workflow.create_dag_run($1, $2, '{\"x\": 1}')", &[&dag, &date]).unwrap();
    }
    let row = client.query_one("SELECT * FROM workflow.latest_dag_run($1)", &[&dag]).unwrap();
    assert_eq!(row.get::<_, DateTime<Utc>>("execution_date").to_rfc3339(), "2026-01-03T00:00:00+00:00");
    assert_eq!(row.get::<_, Value>("conf"), json!({"x": 1}));
}

#[test]
fn pausing_returns_true_only_on_change() {
    let db = Db::new();
    let client = &mut db.connect();
    let (dag, _) = create_run(client);
    for (call, changed) in [("pause_dag", true), ("pause_dag", false), ("unpause_dag", true), ("unpause_dag", false)] {
        let row = client.query_one(&format!("SELECT workflow.{call}($1)"), &[&dag]).unwrap();
        assert_eq!(row.get::<_, bool>(0), changed);
    }
    let row = client.query_one("SELECT updated_at > created_at FROM workflow.dags WHERE id = $1", &[&dag]).unwrap();
    assert!(row.get::<_, bool>(0));
}

#[test]
fn logs_belong_to_current_attempt() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    client.query_one("SELECT workflow.append_task_log($1, 'waiting')", &[&task]).unwrap();
    start_task(client, task);
    client.query_one("SELECT workflow.append_task_log($1, 'broken', 'ERROR')", &[&task]).unwrap();
    let rows = client.query("SELECT try_number, level, message FROM workflow.task_logs ORDER BY id", &[]).unwrap();
    let logs: Vec<(i32, String, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(logs, [(0, "INFO".into(), "waiting".into()), (1, "ERROR".into(), "broken".into())]);
}

#[test]
fn duplicate_error_names_constraint() {
    let db = Db::new();
    let client = &mut db.connect();
    let (dag, run) = create_run(client);
    let dags = "SELECT workflow.create_dag(name) FROM workflow.dags";
    let runs = "SELECT workflow.create_dag_run(dag_id, execution_date) FROM workflow.dag_runs";
    let tasks = "SELECT workflow.create_task_instances(id, ARRAY['t', 't']) FROM workflow.dag_runs";
    let expected = [
        (dags, "dags_name_key"),
        (runs, "dag_runs_dag_id_execution_date_key"),
        (tasks, "task_instances_dag_run_id_task_id_key"),
    ];
    for (sql, constraint) in expected {
        let error = client.query(sql, &[]).expect_err("it exists");
        let error = error.as_db_error().unwrap();
        assert_eq!((error.code().code(), error.constraint()), ("23505", Some(constraint)));
    }
    let counts = "SELECT (SELECT count(*) FROM workflow.dag_runs), (SELECT count(*) FROM workflow.state_history)";
    let row = client.query_one(counts, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 1), "{dag} {run}");
}

#[test]
fn creation_is_dated_once_by_the_clock() {
    let db = Db::new();
    let client = &mut db.connect();
    client.batch_execute("BEGIN; SELECT pg_sleep(0.01)").unwrap();
    create_tasks(client, 3);
    let sql = "SELECT count(*), bool_and(e.created_at = h.changed_at AND e.updated_at = h.changed_at AND h.changed_at > now())
               FROM workflow.state_history AS h
               JOIN (SELECT id, created_at, updated_at FROM workflow.task_instances
                     UNION ALL SELECT id, created_at, updated_at FROM workflow.dag_runs) AS e ON e.id = h.entity_id";
    let row = client.query_one(sql, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (4, true));
    client.batch_execute("COMMIT").unwrap();
}
