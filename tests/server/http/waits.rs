//! What a task waits for, over HTTP.

use super::Api;
use pg_workflow_tests::*;
use serde_json::{Value, json};
use uuid::Uuid;

#[test]
fn task_waits_for_the_parents_that_have_not_ended() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let sql = "SELECT id FROM workflow.create_task_instances($1, '{a,b,c,load}', depends_on => '{\"load\": [\"a\", \"b\", \"c\"]}')";
    let ids: Vec<Uuid> = client.query(sql, &[&run]).unwrap().iter().map(|row| row.get(0)).collect();
    let api = Api::without_relay(&db, &[]);
    let ask = |task: usize, query: &str| api.get(&format!("/api/v1/task-instances/{}/waits-for{query}", ids[task]));
    let names = |body: &Value| -> Vec<String> {
        let items = body["items"].as_array().unwrap();
        items.iter().map(|item| item["task_id"].as_str().unwrap().to_owned()).collect()
    };
    client.batch_execute("UPDATE workflow.task_instances SET state = 'running' WHERE task_id IN ('a', 'b')").unwrap();
    let (status, body) = ask(3, "");
    let since = &body["items"][0]["since"];
    assert!(since.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().is_ok(), "{body}");
    assert_eq!(body["items"][0], json!({"id": ids[0], "task_id": "a", "state": "running", "since": since}));
    assert_eq!(
        (status, names(&body), &body["next_cursor"]),
        (200, vec!["a".into(), "b".into(), "c".into()], &Value::Null)
    );

    let (_, first) = ask(3, "?limit=2");
    let cursor = first["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(names(&first), ["a", "b"]);
    // A page does not depend on its row.
    client.batch_execute("UPDATE workflow.task_instances SET state = 'success' WHERE task_id = 'a'").unwrap();
    let (_, second) = ask(3, &format!("?limit=2&cursor={cursor}"));
    assert_eq!((names(&second), &second["next_cursor"]), (vec!["c".into()], &Value::Null));
    assert_eq!(names(&ask(3, "?limit=1").1), ["b"]);

    // Tasks that do not wait: without parents, and ended.
    assert_eq!(ask(0, ""), (200, json!({"items": [], "next_cursor": null})));
    client.batch_execute("UPDATE workflow.task_instances SET state = 'failed' WHERE task_id IN ('b', 'c')").unwrap();
    assert_eq!(ask(3, ""), (200, json!({"items": [], "next_cursor": null})));
    for (query, parameter) in [("?limit=0", "limit"), ("?cursor=7", "cursor"), ("?fields=id", "fields")] {
        let (status, body) = ask(3, query);
        assert_eq!((status, &body["error"]["parameter"]), (400, &json!(parameter)), "{query}");
    }
    let (status, body) = api.get(&format!("/api/v1/task-instances/{}/waits-for", Uuid::nil()));
    assert_eq!((status, &body["error"]["code"]), (404, &json!("not_found")));
}

#[test]
fn database_before_dependencies_has_no_waits() {
    let db = Db::new().without_verification();
    let install =
        "DROP EXTENSION pg_workflow CASCADE; DROP SCHEMA workflow; CREATE EXTENSION pg_workflow VERSION '0.2.0'";
    db.connect().batch_execute(install).unwrap();
    let (status, body) = Api::without_relay(&db, &[]).get(&format!("/api/v1/task-instances/{}/waits-for", Uuid::nil()));
    assert_eq!((status, &body["error"]["code"]), (404, &json!("not_found")), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("migrate up"), "{body}");
}
