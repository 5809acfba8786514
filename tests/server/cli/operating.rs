//! What operators do by hand, and what they look at.

use super::{etl, ok, refused, run};
use pg_workflow_tests::*;
use serde_json::json;

#[test]
fn move_changes_states_by_the_rules() {
    let db = Db::new();
    let client = &mut db.connect();
    let etl = etl(client);
    let (failed, of_run) = (etl.failed.to_string(), etl.run.to_string());
    let done = ok(&db, &["move", &failed, "--to", "running", "--reason", "the file is there"]);
    assert_eq!(done.table()[1], [&failed, "failed", "running", "4"]);
    let sql = "SELECT metadata->>'reason' FROM workflow.state_history WHERE entity_id = $1 ORDER BY id DESC LIMIT 1";
    assert_eq!(client.query_one(sql, &[&etl.failed]).unwrap().get::<_, &str>(0), "the file is there");
    let moved = ok(&db, &["move", "--json", "--to", "failed", "--from", "running", &of_run]).json();
    assert_eq!(moved, [json!({"id": etl.run, "old_state": "running", "new_state": "failed", "version": 3})]);

    let stale = refused(&db, &["move", &failed, "--to", "running", "--from", "failed"], 1);
    assert!(stale.contains("is running at version 4, expected failed"), "{stale}");
    let illegal = refused(&db, &["move", &failed, "--to", "queued"], 1);
    assert!(illegal.contains("cannot move from running to queued (23514)"), "{illegal}");
    refused(&db, &["move", "00000000-0000-0000-0000-000000000000", "--to", "failed"], 3);
    assert!(refused(&db, &["move", &etl.dag.to_string(), "--to", "failed"], 3).contains("is a DAG"));
    refused(&db, &["move", &failed, "--to", "done"], 2);
}

#[test]
fn paused_dags_hand_out_no_tasks() {
    let db = Db::new();
    let client = &mut db.connect();
    let dag: uuid::Uuid = client.query_one("SELECT workflow.create_dag('etl')", &[]).unwrap().get(0);
    let create = "SELECT workflow.create_task_instances(workflow.create_dag_run($1), '{load}', queue => 'etl')";
    client.query_one(create, &[&dag]).unwrap();
    let claim = "SELECT FROM workflow.claim_tasks('w-1', ARRAY['etl'])";
    assert_eq!(ok(&db, &["pause", "etl"]).stderr, "etl is paused\n");
    assert_eq!(ok(&db, &["pause", &dag.to_string()]).stderr, "etl is already paused\n");
    assert_eq!(client.query(claim, &[]).unwrap().len(), 0);
    assert_eq!(ok(&db, &["unpause", "etl"]).stderr, "etl is not paused\n");
    assert_eq!(client.query(claim, &[]).unwrap().len(), 1);
    refused(&db, &["pause", "elt"], 3);
}

#[test]
fn stuck_shows_what_makes_no_progress() {
    let db = Db::new();
    let client = &mut db.connect();
    assert_eq!(ok(&db, &["stuck"]).stderr, "nothing is stuck\n");
    let etl = etl(client);
    let done = ok(&db, &["stuck", "--longer-than", "0s"]);
    let table = done.table();
    assert_eq!(table[0], ["DAG", "TASK", "STATE", "IDLE", "ID"]);
    assert!(table.iter().any(|row| row[..3] == ["etl", "-", "running"] && row[4] == etl.run.to_string()), "{table:?}");
    let rows = ok(&db, &["stuck", "--longer-than", "0s", "--json"]).json();
    let of_run = rows.iter().find(|row| row["entity_id"] == json!(etl.run)).expect("the run");
    assert_eq!((&of_run["entity_type"], &of_run["task_id"]), (&json!("dag_run"), &json!(null)));
    assert_eq!(run(&db, &["stuck", "--longer-than", "soon"]).code, Some(2));
}

#[test]
fn consumers_are_shown_with_their_backlogs() {
    let db = Db::new();
    let client = &mut db.connect();
    assert_eq!(ok(&db, &["consumers"]).stderr, "no consumers\n");
    client.query("SELECT workflow.create_consumer('billing')", &[]).unwrap();
    create_task(client);
    let done = ok(&db, &["consumers"]);
    assert_eq!(done.table()[1][..2], ["billing", "2"]);
    let rows = ok(&db, &["consumers", "--json"]).json();
    assert_eq!((&rows[0]["consumer"], &rows[0]["pending"]), (&json!("billing"), &json!(2)));
    assert!(rows[0]["lag_seconds"].as_f64().unwrap() >= 0.0);
}

#[test]
fn partitions_are_shown_with_their_sizes() {
    let db = Db::new();
    let client = &mut db.connect();
    let partitions = ok(&db, &["partitions", "--json"]).json();
    let sql = "SELECT count(*) FROM workflow.partitions";
    assert_eq!(partitions.len() as i64, client.query_one(sql, &[]).unwrap().get::<_, i64>(0));
    let table = ok(&db, &["partitions"]);
    assert!(table.table().iter().any(|row| row[1..3] == ["state_history", "current"]), "{}", table.stdout);
}

#[test]
fn purge_deletes_finished_runs_unless_dry() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    client.batch_execute("UPDATE workflow.dag_runs SET state = 'skipped'").unwrap();
    let dry = ok(&db, &["purge", "--before", "0s", "--dry-run"]);
    assert_eq!(dry.table()[1], ["dag_runs", "1", "would", "be", "removed"]);
    let count = "SELECT count(*) FROM workflow.dag_runs WHERE id = $1";
    assert_eq!(client.query_one(count, &[&run]).unwrap().get::<_, i64>(0), 1);
    let purged = ok(&db, &["purge", "--before", "0s", "--json"]).json();
    assert_eq!(purged[0], json!({"object": "dag_runs", "rows": 1, "outcome": "removed"}));
    assert_eq!(client.query_one(count, &[&run]).unwrap().get::<_, i64>(0), 0);
    refused(&db, &["purge"], 2);
}
