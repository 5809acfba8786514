//! Runs with dependencies begin with their first claim, and end themselves.

use super::*;
use serde_json::json;

#[test]
fn first_claim_starts_the_run() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b"], json!({"b": ["a"]}), json!({}));
    for expected in [1, 0] {
        let sql = "SELECT claim FROM workflow.claim_tasks('worker', '{graph}')";
        let claims = client.query(sql, &[]).unwrap();
        assert_eq!((claims.len(), graph.run_state(client).as_str()), (expected, "running"));
        if let Some(claim) = claims.first() {
            client
                .batch_execute(&format!("BEGIN; SELECT workflow.complete_claim('{}')", claim.get::<_, String>(0)))
                .unwrap();
            client.batch_execute("ROLLBACK").unwrap();
        }
    }
}

#[test]
fn run_without_dependencies_is_left_alone() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    client.query("SELECT FROM workflow.create_task_instances($1, '{a}', queue => 'q')", &[&run]).unwrap();
    let sql = "SELECT workflow.complete_claim(claim) FROM workflow.claim_tasks('worker', '{q}')";
    assert_eq!(client.query(sql, &[]).unwrap().len(), 1);
    assert_eq!(state_of(client, "dag_run", run), ("queued".into(), 1));
}

#[test]
fn workers_run_a_graph_to_its_end() {
    let db = Db::new();
    let client = &mut db.connect();
    let names = ["a", "b", "c", "d"];
    let graph = Graph::create(client, &names, json!({"b": ["a"], "c": ["a"], "d": ["b", "c"]}), json!({}));
    let mut order = Vec::new();
    loop {
        let sql = "SELECT task_id, workflow.complete_claim(claim) FROM workflow.claim_tasks('worker', '{graph}')";
        let Some(row) = client.query_opt(sql, &[]).unwrap() else { break };
        order.push(row.get::<_, String>(0));
    }
    assert_eq!(order, ["a", "b", "c", "d"]);
    assert_eq!(graph.run_state(client), "success");
    assert_eq!(graph.metadata(client, graph.run), json!({"reason": "tasks_ended"}));
}

#[test]
fn run_waits_for_tasks_without_dependencies_too() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    client.query("SELECT FROM workflow.create_task_instances($1, '{early}')", &[&run]).unwrap();
    let mut graph = Graph { run, ids: BTreeMap::new() };
    graph.add(client, &["a"], json!({}), json!({}));
    client.query("SELECT FROM workflow.create_task_instances($1, '{late}')", &[&run]).unwrap();
    for name in ["a", "late", "early"] {
        assert_eq!(graph.run_state(client), "queued");
        let sql = "UPDATE workflow.task_instances SET state = 'skipped' WHERE task_id = $1";
        client.execute(sql, &[&name]).unwrap();
    }
    assert_eq!(graph.run_state(client), "skipped");
}

#[test]
fn mapper_adds_tasks_as_it_ends() {
    let db = Db::new();
    let client = &mut db.connect();
    for count in [3, 0] {
        let mut graph = Graph::create(client, &["map"], json!({}), json!({}));
        graph.move_to(client, "map", &["running"]);
        let mut transaction = client.transaction().unwrap();
        let names: Vec<String> = (0..count).map(|n| format!("mapped_{n}")).collect();
        let mapped: Vec<&str> = names.iter().map(String::as_str).collect();
        graph.add(&mut transaction, &mapped, json!({}), json!({}));
        let parents: Vec<&str> = mapped.iter().copied().chain(["map"]).collect();
        graph.add(&mut transaction, &["reduce"], json!({"reduce": parents}), json!({}));
        graph.move_to(&mut transaction, "map", &["success"]);
        transaction.commit().unwrap();
        for name in &names {
            assert_eq!(graph.ready(client).len(), names.len() - names.iter().position(|one| one == name).unwrap());
            graph.end(client, name, "success");
        }
        assert_eq!(graph.ready(client), ["reduce"]);
        assert_eq!(graph.run_state(client), "queued");
        graph.end(client, "reduce", "success");
        assert_eq!(graph.run_state(client), "success");
    }
}

#[test]
fn cancelled_run_ends() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b"], json!({"b": ["a"]}), json!({}));
    client.query_one("SELECT workflow.request_cancel($1)", &[&graph.run]).unwrap();
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("skipped", 0));
}
