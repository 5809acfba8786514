//! Runs that fail if any task did, or only if a leaf did.

use super::*;
use serde_json::json;

fn set(client: &mut impl postgres::GenericClient, run: Uuid, fails_on: Option<&str>) -> Result<u64, postgres::Error> {
    client.execute("SELECT workflow.set_fails_on($1, $2)", &[&run, &fails_on])
}

/// `extract` has failed, which `cleanup` waits for.
fn hidden_failure(client: &mut Client) -> Graph {
    let rules = json!({"cleanup": "all_done"});
    Graph::create(client, &["extract", "cleanup"], json!({"cleanup": ["extract"]}), rules)
}

#[test]
fn run_fails_by_any_task_or_by_its_leaves() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks_failed = json!({"reason": "tasks_failed", "failed": ["extract"], "count": 1});
    for (path, settings, state, metadata) in [
        ("on", [].as_slice(), "failed", tasks_failed.clone()),
        ("on", &["leaves", "tasks"], "failed", tasks_failed),
        ("on", &["leaves"], "success", json!({"reason": "tasks_ended"})),
        ("off", &["leaves"], "success", json!({"reason": "tasks_ended"})),
    ] {
        client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
        let graph = hidden_failure(client);
        settings.iter().for_each(|setting| _ = set(client, graph.run, Some(setting)).unwrap());
        graph.end(client, "extract", "failed");
        graph.end(client, "cleanup", "success");
        assert_eq!(graph.run_state(client), state, "{settings:?}");
        assert_eq!(graph.metadata(client, graph.run), metadata, "{settings:?}");
    }
}

#[test]
fn failed_leaf_fails_the_run() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["extract", "load", "alone"], json!({"load": ["extract"]}), json!({}));
    set(client, graph.run, Some("leaves")).unwrap();
    graph.end(client, "alone", "success");
    graph.end(client, "extract", "failed");
    assert_eq!(graph.run_state(client), "failed");
    let metadata = json!({"reason": "leaves_failed", "failed": ["load"], "count": 1});
    assert_eq!(graph.metadata(client, graph.run), metadata);
}

#[test]
fn task_that_gets_children_is_no_leaf_any_more() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut graph = hidden_failure(client);
    set(client, graph.run, Some("leaves")).unwrap();
    graph.end(client, "extract", "failed");
    let rules = json!({"report": "all_done", "first": "one_done"});
    let depends_on = json!({"report": ["cleanup"], "first": ["cleanup"]});
    graph.add(client, &["report", "first"], depends_on, rules);
    graph.end(client, "cleanup", "failed");
    ["report", "first"].iter().for_each(|name| graph.end(client, name, "skipped"));
    assert_eq!(graph.run_state(client), "success");
}

#[test]
fn bad_settings_are_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = hidden_failure(client);
    let value = failure(set(client, graph.run, Some("roots")));
    assert_eq!((value.sqlstate.as_str(), value.detail), ("22023", json!({"argument": "fails_on", "value": "roots"})));
    assert_eq!(failure(set(client, graph.run, None)).sqlstate, "22023");
    assert_eq!(failure(set(client, Uuid::nil(), Some("leaves"))).sqlstate, "P0002");
    let (_, run) = create_run(client);
    let without = failure(set(client, run, Some("leaves")));
    assert_eq!(
        (without.sqlstate.as_str(), without.detail),
        ("55000", json!({"entity_type": "dag_run", "entity_id": run}))
    );
    ["extract", "cleanup"].iter().for_each(|name| graph.end(client, name, "success"));
    let ended = failure(set(client, graph.run, Some("leaves")));
    assert_eq!((ended.sqlstate.as_str(), &ended.detail["state"]), ("55000", &json!("success")));
}

/// The end of the run waits for the transaction that sets how it ends.
#[test]
fn setting_in_progress_holds_the_end_of_the_run() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let graph = hidden_failure(client);
    graph.end(client, "extract", "failed");
    let mut setting = other.transaction().unwrap();
    set(&mut setting, graph.run, Some("leaves")).unwrap();
    graph.end(client, "cleanup", "success");
    assert_eq!(graph.run_state(client), "queued");
    setting.commit().unwrap();
    client.batch_execute("SELECT workflow.look_at_joins()").unwrap();
    assert_eq!(graph.run_state(client), "success");
}
