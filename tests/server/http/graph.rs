//! The graph of a run over HTTP.

use super::Api;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use uuid::Uuid;

/// Creates a run of a diamond with a tail, and a task without dependencies.
fn create(client: &mut Client) -> Uuid {
    let (_, run) = create_run(client);
    let sql = "SELECT count(*) FROM workflow.create_task_instances($1, '{tail,extract,clean,check,load,alone}',
        queue => 'etl', depends_on => '{\"clean\": [\"extract\"], \"check\": [\"extract\"], \"load\": [\"clean\", \"check\"],
                                        \"tail\": [\"load\", \"extract\"]}', trigger_rules => '{\"tail\": \"all_done\"}')";
    client.query_one(sql, &[&run]).unwrap();
    run
}

#[test]
fn graph_has_layers_states_and_joins() {
    let db = Db::new();
    let client = &mut db.connect();
    let run = create(client);
    let api = Api::without_relay(&db, &[]);
    let path = format!("/api/v1/dag-runs/{run}/graph");
    let (status, graph) = api.get(&path);
    assert_eq!(status, 200, "{graph}");
    let shown = |graph: &Value| -> Vec<Value> {
        let nodes = graph["nodes"].as_array().unwrap();
        nodes.iter().map(|node| json!([node["task_id"], node["state"], node["layer"]])).collect()
    };
    let layers = [("tail", 3), ("extract", 0), ("clean", 1), ("check", 1), ("load", 2), ("alone", 0)];
    assert_eq!(shown(&graph), layers.map(|(name, layer)| json!([name, "queued", layer])));
    let sql = "SELECT id::text FROM workflow.task_instances ORDER BY id";
    let ids: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let nodes = graph["nodes"].as_array().unwrap();
    assert_eq!(nodes.iter().map(|node| node["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    let mut joins = graph["joins"].as_array().unwrap().clone();
    assert!(joins.iter_mut().all(|join| join.as_object_mut().unwrap().remove("id").unwrap().is_string()));
    joins.sort_by_key(|join| join["parents"].to_string());
    let expected = [
        json!({"trigger_rule": "all_success", "parents": ["clean", "check"], "children": ["load"], "is_decided": false, "layer": 2}),
        json!({"trigger_rule": "all_done", "parents": ["extract", "load"], "children": ["tail"], "is_decided": false, "layer": 3}),
        json!({"trigger_rule": "all_success", "parents": ["extract"], "children": ["clean", "check"], "is_decided": false, "layer": 1}),
    ];
    assert_eq!(joins, expected);

    client
        .batch_execute(
            "UPDATE workflow.task_instances SET state = 'running' WHERE task_id = 'extract';
             UPDATE workflow.task_instances SET state = 'success' WHERE task_id = 'extract'",
        )
        .unwrap();
    let (_, graph) = api.get(&path);
    assert_eq!(shown(&graph)[1], json!(["extract", "success", 0]));
    let decided = graph["joins"].as_array().unwrap().iter().filter(|join| join["is_decided"] == true);
    assert_eq!(decided.map(|join| &join["parents"]).collect::<Vec<_>>(), [&json!(["extract"])]);
}

#[test]
fn graph_has_only_the_wanted_fields() {
    let db = Db::new();
    let run = create(&mut db.connect());
    let api = Api::without_relay(&db, &[]);
    let path = format!("/api/v1/dag-runs/{run}/graph");
    let (_, whole) = api.get(&path);
    for field in ["nodes", "joins"] {
        assert_eq!(api.get(&format!("{path}?fields={field}")), (200, json!({ field: whole[field] })));
    }
    assert_eq!(api.get(&format!("{path}?fields=joins,nodes")), (200, whole));
    assert_eq!(api.get(&format!("{path}?fields=edges")).1["error"]["parameter"], "fields");
}

#[test]
fn graph_is_tagged_until_a_task_moves() {
    let db = Db::new();
    let client = &mut db.connect();
    let run = create(client);
    let api = Api::without_relay(&db, &[]);
    let url = format!("{}/api/v1/dag-runs/{run}/graph", api.url);
    let ask = |tag: &str| {
        let response = api.agent.get(&url).header("If-None-Match", tag).call().unwrap();
        (response.status().as_u16(), response.headers()["etag"].to_str().unwrap().to_owned())
    };
    let (status, tag) = ask("\"\"");
    assert_eq!((status, ask(&tag)), (200, (304, tag.clone())));
    client.batch_execute("UPDATE workflow.task_instances SET state = 'running' WHERE task_id = 'alone'").unwrap();
    let (status, changed) = ask(&tag);
    assert!(status == 200 && changed != tag, "{status} {changed} {tag}");
}

#[test]
fn graph_without_dependencies_or_run_is_empty_or_missing() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    client.query("SELECT workflow.create_task_instances($1, '{a}')", &[&run]).unwrap();
    let api = Api::without_relay(&db, &[]);
    let (status, graph) = api.get(&format!("/api/v1/dag-runs/{run}/graph"));
    assert_eq!((status, &graph["joins"], &graph["nodes"][0]["task_id"]), (200, &json!([]), &json!("a")));
    for path in ["not-a-uuid/graph".to_owned(), format!("{run}/graph?color=red")] {
        assert_eq!(api.get(&format!("/api/v1/dag-runs/{path}")).0, 400, "{path}");
    }
    let (status, body) = api.get(&format!("/api/v1/dag-runs/{}/graph", Uuid::nil()));
    assert_eq!((status, &body["error"]["code"]), (404, &json!("not_found")));
}

#[test]
fn graph_larger_than_a_page_is_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    let api = Api::without_relay(&db, &[]);
    let tasks = "ARRAY(SELECT repeat('x', 400) || n FROM generate_series(1, $2) AS n)";
    // 3,000 tasks fit, as long as they do not name each other; 10,000 do not.
    let chain = "(SELECT jsonb_object_agg(repeat('x', 400) || n, jsonb_build_array(repeat('x', 400) || n - 1))
                  FROM generate_series(2, $2) AS n)";
    // Of joins alone, only they count.
    let cases = [
        (3000, "'{}'", "", 200),
        (10_000, "'{}'", "", 400),
        (10_000, "'{}'", "?fields=joins", 200),
        (6000, chain, "", 400),
        (6000, chain, "?fields=joins", 400),
    ];
    for (count, depends_on, fields, expected) in cases {
        let (_, run) = create_run(client);
        let sql =
            format!("SELECT count(*) FROM workflow.create_task_instances($1, {tasks}, depends_on => {depends_on})");
        client.query_one(&sql, &[&run, &count]).unwrap();
        let (status, body) = api.get(&format!("/api/v1/dag-runs/{run}/graph{fields}"));
        assert_eq!(status, expected, "{count} {fields}");
        assert!(status == 200 || body["error"]["parameter"] == "id", "{body}");
    }
}

#[test]
fn limit_of_a_graph_is_that_of_the_whole_response() {
    let db = Db::new();
    let client = &mut db.connect();
    let api = Api::without_relay(&db, &[]);
    let chain = |name: &str| {
        format!(
            "SELECT count(*) FROM workflow.create_task_instances($1, ARRAY(SELECT {name} FROM generate_series(1, $2) AS n),
                depends_on => (SELECT jsonb_object_agg({name}, jsonb_build_array({before})) FROM generate_series(2, $2) AS n))",
            before = name.replace('n', "(n - 1)")
        )
    };
    // In JSON, a tab has two bytes, and an escaped character six.
    let cases = [
        ("'t' || n", 14_000, "", 200),
        ("'t' || n", 18_000, "", 400),
        ("'t' || n", 18_000, "?fields=joins", 200),
        ("repeat(chr(1), 200) || n", 2000, "?fields=joins", 400),
        ("repeat('x', 200) || n", 2000, "?fields=joins", 200),
    ];
    for (name, count, fields, expected) in cases {
        let (_, run) = create_run(client);
        client.query_one(&chain(name), &[&run, &count]).unwrap();
        let url = format!("{}/api/v1/dag-runs/{run}/graph{fields}", api.url);
        let mut response = api.agent.get(&url).call().unwrap();
        let bytes = response.body_mut().read_to_vec().unwrap().len();
        assert_eq!(response.status(), expected, "{name} {count} {fields}: {bytes} bytes");
        assert!(bytes <= 4 << 20, "{bytes} bytes");
    }
}

#[test]
fn database_before_dependencies_has_no_graph() {
    let db = Db::new().without_verification();
    let install =
        "DROP EXTENSION pg_workflow CASCADE; DROP SCHEMA workflow; CREATE EXTENSION pg_workflow VERSION '0.2.0'";
    let client = &mut db.connect();
    client.batch_execute(install).unwrap();
    let (_, run) = create_run(client);
    let (status, body) = Api::without_relay(&db, &[]).get(&format!("/api/v1/dag-runs/{run}/graph"));
    assert_eq!((status, &body["error"]["code"]), (404, &json!("not_found")), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("migrate up"), "{body}");
}
