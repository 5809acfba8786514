//! What becomes of a task when the others have ended.

use super::*;
use pg_workflow_state_machine::{Fate, Parents, State, TriggerRule};
use serde_json::json;

#[test]
fn child_can_be_claimed_when_its_parents_have_succeeded() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c"], json!({"c": ["a", "b"]}), json!({}));
    assert_eq!(graph.ready(client), ["a", "b"]);
    graph.end(client, "a", "success");
    assert_eq!(graph.ready(client), ["b"]);
    graph.end(client, "b", "success");
    assert_eq!(graph.ready(client), ["c"]);
    assert_eq!(undecided(client), 1, "only the run's own");
    graph.end(client, "c", "success");
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
}

#[test]
fn child_of_failed_parent_fails_without_an_attempt() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c"], json!({"b": ["a"], "c": ["b"]}), json!({}));
    graph.end(client, "a", "failed");
    let sql = "SELECT state, error, try_number, version FROM workflow.task_instances WHERE id = $1";
    for (name, error) in [("b", "upstream failed: a"), ("c", "upstream failed: b")] {
        let row = client.query_one(sql, &[&graph.id(name)]).unwrap();
        let task: (String, String, i32, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
        assert_eq!(task, ("failed".into(), error.into(), 0, 2));
    }
    let metadata = graph.metadata(client, graph.id("b"));
    let expected =
        json!({"reason": "upstream_failed", "upstream": ["a"], "rule": "all_success", "error": "upstream failed: a"});
    assert_eq!(metadata, expected);
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("failed", 0));
    let run = graph.metadata(client, graph.run);
    assert_eq!(run, json!({"reason": "tasks_failed", "failed": ["a"], "count": 3}));
}

#[test]
fn skips_spread_by_rule() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(
        client,
        &["a", "b", "c", "d"],
        json!({"b": ["a"], "c": ["b"], "d": ["b"]}),
        json!({"d": "none_failed"}),
    );
    graph.end(client, "a", "skipped");
    assert_eq!(["b", "c", "d"].map(|name| graph.state(client, name)), ["skipped", "skipped", "queued"]);
    assert_eq!(graph.ready(client), ["d"]);
    let metadata = graph.metadata(client, graph.id("c"));
    assert_eq!(metadata, json!({"reason": "upstream_skipped", "upstream": ["b"], "rule": "all_success"}));
}

/// All rules, each with all ends of three parents, in two orders.
#[test]
fn every_rule_decides_as_the_pure_function() {
    let db = Db::new();
    let client = &mut db.connect();
    let ends = [State::Success, State::Failed, State::Skipped];
    let names: Vec<String> = TriggerRule::ALL.iter().map(|rule| rule.to_string()).collect();
    let tasks: Vec<&str> = ["p", "q", "r"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let depends_on: Value = names.iter().map(|name| (name.clone(), json!(["p", "q", "r"]))).collect();
    let rules: Value = names.iter().map(|name| (name.clone(), json!(name))).collect();
    for number in 0..27 {
        let states = [number % 3, number / 3 % 3, number / 9].map(|n: usize| ends[n]);
        let graph = Graph::create(client, &tasks, depends_on.clone(), rules.clone());
        let mut order = [0, 1, 2];
        order.rotate_left(number % 3);
        for n in order {
            graph.end(client, ["p", "q", "r"][n], states[n].as_str());
        }
        let mut parents = Parents::default();
        states.into_iter().for_each(|state| parents.add(state));
        let ready = graph.ready(client);
        for rule in TriggerRule::ALL {
            let state = graph.state(client, rule.as_str());
            let fate = match (state.as_str(), ready.iter().any(|name| name == rule.as_str())) {
                ("queued", true) => Fate::Run,
                ("failed", false) => Fate::Fail,
                ("skipped", false) => Fate::Skip,
                ("queued", false) => Fate::Undecided,
                other => panic!("{rule}: {other:?}"),
            };
            assert_eq!(fate, rule.fate(parents), "{rule} {states:?}");
        }
    }
}

#[test]
fn one_parent_decides_early_rules() {
    let db = Db::new();
    let client = &mut db.connect();
    let early = ["one_success", "one_failed", "one_done"];
    let tasks = ["p", "q", "r", "one_success", "one_failed", "one_done"];
    let depends_on: Value = early.iter().map(|name| (name.to_string(), json!(["p", "q", "r"]))).collect();
    let rules: Value = early.iter().map(|name| (name.to_string(), json!(name))).collect();
    for (state, ready) in [("success", vec!["one_done", "one_success"]), ("failed", vec!["one_done", "one_failed"])] {
        let graph = Graph::create(client, &tasks, depends_on.clone(), rules.clone());
        graph.end(client, "p", "skipped");
        graph.end(client, "q", state);
        let mut all = ready.clone();
        all.push("r");
        assert_eq!(graph.ready(client), all);
        graph.end(client, "r", "success");
        assert_eq!(graph.run_state(client), "queued");
    }
}

#[test]
fn child_moved_by_hand_stays_so() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c"], json!({"b": ["a"], "c": ["a"]}), json!({}));
    graph.move_to(client, "b", &["running"]);
    graph.end(client, "a", "failed");
    assert_eq!(["b", "c"].map(|name| graph.state(client, name)), ["running", "failed"]);
    assert_eq!(graph.run_state(client), "queued");
    graph.move_to(client, "b", &["success"]);
    assert_eq!(graph.run_state(client), "failed");
}

#[test]
fn retry_is_no_end() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b"], json!({"b": ["a"]}), json!({}));
    graph.move_to(client, "a", &["running", "retrying", "running"]);
    assert_eq!(graph.state(client, "b"), "queued");
    graph.move_to(client, "a", &["success"]);
    assert_eq!(graph.ready(client), ["b"]);
}

#[test]
fn waiting_child_is_not_claimed_from_a_new_queue() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b"], json!({"b": ["a"]}), json!({}));
    let enqueue = "SELECT outcome FROM workflow.enqueue_task_instances(ARRAY[$1::uuid], 'other')";
    client.query_one(enqueue, &[&graph.id("b")]).unwrap();
    let claim = "SELECT task_id FROM workflow.claim_tasks('worker', '{other}')";
    assert!(client.query(claim, &[]).unwrap().is_empty());
    graph.end(client, "a", "success");
    let row = client.query_one(claim, &[]).unwrap();
    assert_eq!(row.get::<_, String>(0), "b");
}

#[test]
fn deleted_parent_counts_no_more() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c"], json!({"c": ["a", "b"]}), json!({}));
    graph.end(client, "a", "success");
    client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&graph.id("b")]).unwrap();
    assert_eq!(graph.ready(client), ["c"]);
    client.execute("DELETE FROM workflow.dag_runs", &[]).unwrap();
    assert_eq!(undecided(client), 0);
}
