//! `show` and `history` of one entity.

use super::{Etl, etl, ok, refused};
use pg_workflow_tests::*;
use serde_json::{Value, json};

#[test]
fn show_recognizes_ids_of_dags_runs_and_tasks() {
    let db = Db::new();
    let client = &mut db.connect();
    let Etl { dag, run: etl_run, failed } = etl(client);

    for name in ["etl", &dag.to_string()] {
        let shown = ok(&db, &["show", name]).stdout;
        assert!(shown.starts_with("dag         etl\nid          "), "{shown}");
        assert!(shown.contains("\nDescription\nloads orders\n") && shown.contains("\nLatest runs\nDAG"), "{shown}");
        let json = &ok(&db, &["show", name, "--json"]).json()[0];
        assert_eq!((&json["entity_type"], &json["schedule"]), (&json!("dag"), &json!("@daily")));
        assert_eq!(json["latest_runs"][0]["id"], json!(etl_run));
    }
    let id = etl_run.to_string();
    let shown = ok(&db, &["show", &id]);
    let words = shown.table();
    assert!(
        words.contains(&vec!["dag", "etl"]) && words.contains(&vec!["conf", r#"{"day":"#, "23}"]),
        "{}",
        shown.stdout
    );
    assert!(shown.stdout.contains("\nTasks\n1 queued, 1 running, 1 failed\n\nTASK"), "{}", shown.stdout);
    let order: Vec<&str> = words.iter().rev().take(3).rev().map(|row| row[0]).collect();
    assert_eq!(order, ["extract", "load", "transform"], "failed tasks first, then running tasks");
    let json = &ok(&db, &["show", &id, "--json"]).json()[0];
    assert_eq!(json["task_states"], json!({"queued": 1, "running": 1, "failed": 1}));
    assert_eq!((&json["entity_type"], &json["dag_name"]), (&json!("dag_run"), &json!("etl")));

    let id = failed.to_string();
    let shown = ok(&db, &["show", &id]).stdout;
    assert!(shown.contains("\ndag             etl\nexecution date  2026-11-23T00:00:00Z\n"), "{shown}");
    assert!(shown.contains("\nError\nno such file\n  at line 7\n"), "{shown}");
    assert!(shown.contains("ERROR     Traceback\n      line 7\n"), "{shown}");
    assert!(shown.contains("\nLatest transitions\nCHANGED"), "{shown}");
    let json = &ok(&db, &["show", &id, "--json"]).json()[0];
    assert_eq!((&json["entity_type"], &json["task_id"]), (&json!("task_instance"), &json!("extract")));
    assert_eq!(json["latest_logs"][0]["message"], "opening");
    assert_eq!(json["latest_history"][0]["new_state"], "failed");
}

#[test]
fn history_is_newest_first_and_includes_deleted_entities() {
    let db = Db::new();
    let client = &mut db.connect();
    let Etl { dag, run: etl_run, failed } = etl(client);
    client.execute("DELETE FROM workflow.dags WHERE id = $1", &[&dag]).unwrap();
    let of_run = ok(&db, &["history", &etl_run.to_string()]);
    assert_eq!(of_run.table()[1][1..5], ["3", "running", "deleted", "postgres"]);
    assert_eq!(ok(&db, &["history", &etl_run.to_string(), "--json"]).json()[0].get("new_state"), Some(&Value::Null));
    let id = failed.to_string();
    let done = ok(&db, &["history", &id]);
    let table = done.table();
    assert_eq!(table[0], ["CHANGED", "VERSION", "FROM", "TO", "ACTOR", "METADATA"]);
    assert_eq!(table[1][1..5], ["3", "running", "failed", "postgres"]);
    assert!(table[1][5..].concat().contains(r#""worker":"w-1""#), "{}", done.stdout);
    assert_eq!(table[3][1..], ["1", "-", "queued", "postgres", "-"]);
    let versions = |args: &[&str]| -> Vec<Value> {
        let done = ok(&db, &[&["history", &id, "--json"], args].concat());
        done.json().iter().map(|event| event["version"].clone()).collect()
    };
    assert_eq!(versions(&[]), [3, 2, 1]);
    assert_eq!(versions(&["--order-by", "id"]), [1, 2, 3]);
    assert_eq!(versions(&["--limit", "1"]), [3]);
    assert!(refused(&db, &["show", &id], 3).contains(&format!("workflow-server history {id}")));
}
