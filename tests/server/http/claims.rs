//! The HTTP API's claims and queues.

use super::Api;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use uuid::Uuid;

fn enqueue(client: &mut Client, queue: &str, count: i32) -> Uuid {
    let (_, run) = create_run(client);
    let sql = "SELECT workflow.create_task_instances($1, ARRAY(SELECT 't' || n FROM generate_series(1, $2) AS n), queue => $3)";
    client.query(sql, &[&run, &count, &queue]).unwrap();
    run
}

fn claim(client: &mut Client, worker: &str, queue: &str, max: i32) {
    client.query("SELECT workflow.claim_tasks($1, ARRAY[$2], $3)", &[&worker, &queue, &max]).unwrap();
}

fn ids(items: &[Value]) -> Vec<String> {
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn claims_are_filtered_and_paged() {
    let db = Db::new();
    let client = &mut db.connect();
    let run = enqueue(client, "etl", 3);
    enqueue(client, "mail", 3);
    claim(client, "w-1", "etl", 2);
    claim(client, "w-2", "mail", 3);
    // Tasks that were moved by hand have no claim.
    client.batch_execute("UPDATE workflow.task_instances SET state = 'running' WHERE state = 'queued'").unwrap();
    let api = Api::without_relay(&db, &[]);
    let sql = "SELECT id::text FROM workflow.claims ORDER BY id DESC";
    let newest_first: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(newest_first.len(), 5);
    for direction in ["-id", "id"] {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let (items, next) = api.list(&format!("/api/v1/claims?order_by={direction}&limit=2{cursor}"));
            found.extend(ids(&items));
            let Some(next) = next else { break };
            cursor = format!("&cursor={next}");
        }
        if direction == "id" {
            found.reverse();
        }
        assert_eq!(found, newest_first, "{direction}");
    }
    for (filter, count) in [
        (format!("dag_run_id={run}"), 2),
        ("worker=w-2".to_owned(), 3),
        ("queue=etl".to_owned(), 2),
        ("queue=etl&worker=w-2".to_owned(), 0),
        (format!("dag_run_id={run}&queue=mail"), 0),
        (format!("id={}&worker=w-2", newest_first[0]), 1),
        (format!("id={}", Uuid::nil()), 0),
    ] {
        assert_eq!(api.list(&format!("/api/v1/claims?{filter}")).0.len(), count, "{filter}");
    }
    let (items, _) =
        api.list(&format!("/api/v1/claims?dag_run_id={run}&limit=1&fields=worker,queue,cancel_requested_at"));
    assert_eq!(items, [json!({"worker": "w-1", "queue": "etl", "cancel_requested_at": null})]);
}

#[test]
fn queues_are_counted_and_paged() {
    let db = Db::new();
    let client = &mut db.connect();
    for queue in ["b", "a", "c"] {
        enqueue(client, queue, 3);
    }
    client.query("SELECT workflow.set_queue('b', slots => 1, paused_until => '-infinity')", &[]).unwrap();
    claim(client, "w", "b", 5);
    claim(client, "w", "b", 5);
    let api = Api::without_relay(&db, &[]);
    let (items, cursor) = api.list("/api/v1/queues?limit=2");
    let names: Vec<&str> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
    let (b, fields) =
        (&items[1], ["slots", "ready", "later", "parked", "running", "refused", "tenant", "paused_until"]);
    let expected = json!([1, 2, 0, 0, 1, 1, "", "0001-01-01T00:00:00.000000Z"]);
    assert_eq!(json!(fields.map(|field| &b[field])), expected);
    assert!(b["oldest_ready_at"].is_string());
    let (items, cursor) = api.list(&format!("/api/v1/queues?cursor={}", cursor.unwrap()));
    assert_eq!((items.len(), &items[0]["name"], cursor), (1, &json!("c"), None));
    assert_eq!(api.list("/api/v1/queues?name=c").0.len(), 1);
    assert_eq!(api.list("/api/v1/queues?order_by=-name").0[0]["name"], "c");
}

#[test]
fn tenant_sees_its_own_claims_and_queues() {
    let db = Db::new();
    let admin = &mut db.connect();
    admin.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    let role = format!("tenant_{}", Uuid::new_v4().simple());
    admin.batch_execute(&format!("CREATE ROLE {role} LOGIN IN ROLE workflow_writer")).unwrap();
    enqueue(admin, "default", 1);
    claim(admin, "of-admin", "default", 1);
    {
        let mut tenant = db.connect();
        tenant.batch_execute(&format!("SET ROLE {role}")).unwrap();
        enqueue(&mut tenant, "default", 1);
        claim(&mut tenant, "of-tenant", "default", 1);
    }
    {
        let api = Api::at(&db.url_as(&role), &[]);
        let (claims, _) = api.list("/api/v1/claims");
        assert_eq!((claims.len(), &claims[0]["worker"]), (1, &json!("of-tenant")));
        let (queues, _) = api.list("/api/v1/queues");
        assert_eq!((queues.len(), &queues[0]["tenant"], &queues[0]["running"]), (1, &json!(role), &json!(1)));
    }
    let everything = Api::without_relay(&db, &[]);
    assert_eq!(everything.list("/api/v1/queues").0.len(), 2);
    admin.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
}

#[test]
fn database_before_claims_has_none() {
    let db = Db::new().without_verification();
    let install =
        "DROP EXTENSION pg_workflow CASCADE; DROP SCHEMA workflow; CREATE EXTENSION pg_workflow VERSION '0.2.0'";
    db.connect().batch_execute(install).unwrap();
    let api = Api::without_relay(&db, &[]);
    for path in ["/api/v1/claims", "/api/v1/queues"] {
        let (status, body) = api.get(path);
        assert_eq!((status, &body["error"]["code"]), (404, &json!("not_found")), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains("migrate up"), "{body}");
    }
}

#[test]
fn metrics_have_the_depth_of_queues() {
    let db = Db::new();
    let client = &mut db.connect();
    enqueue(client, "etl", 3);
    client.query("SELECT workflow.set_queue('etl', slots => 1)", &[]).unwrap();
    claim(client, "w", "etl", 1);
    claim(client, "w", "etl", 1);
    let api = Api::without_relay(&db, &[]);
    let metrics = || api.agent.get(format!("{}/metrics", api.url)).call().unwrap().body_mut().read_to_string().unwrap();
    wait_until("the queues are counted", || metrics().contains("workflow_queue_ready_tasks{"));
    let text = metrics();
    for line in ["ready_tasks", "running_tasks", "refused_claims_total"].map(|name| format!("workflow_queue_{name}")) {
        let value = if line.contains("ready") {
            "2.0"
        } else if line.contains("running") {
            "1.0"
        } else {
            "1"
        };
        assert!(text.contains(&format!("\n{line}{{queue=\"etl\",tenant=\"\"}} {value}\n")), "{line}: {text}");
    }
    assert!(text.contains("\nworkflow_queue_oldest_ready_seconds{queue=\"etl\",tenant=\"\"} "), "{text}");
}

/// A name from a user ends no label, and adds no metric.
#[test]
fn metrics_escape_the_names_of_queues() {
    let db = Db::new();
    let client = &mut db.connect();
    client.query("SELECT workflow.set_queue($1, slots => 1)", &[&"a\"} 0\nworkflow_up 0\n\\"]).unwrap();
    let api = Api::without_relay(&db, &[]);
    let metrics = || api.agent.get(format!("{}/metrics", api.url)).call().unwrap().body_mut().read_to_string().unwrap();
    wait_until("the queues are counted", || metrics().contains("workflow_queue_ready_tasks{"));
    let text = metrics();
    let label = r#"workflow_queue_ready_tasks{queue="a\"} 0\nworkflow_up 0\n\\",tenant=""}"#;
    assert!(text.lines().any(|line| line.starts_with(label)), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("workflow_up 0")), "{text}");
}
