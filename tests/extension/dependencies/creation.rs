//! Creating tasks that depend on others.

use super::*;
use serde_json::json;

/// The SQLSTATE and the DETAIL of a call that is rejected.
fn rejected(client: &mut Client, run: Uuid, names: &[&str], depends_on: Value, rules: Value) -> (String, Value) {
    let sql = "SELECT * FROM workflow.create_task_instances($1, $2, depends_on => $3, trigger_rules => $4)";
    let failure = failure(client.query(sql, &[&run, &names, &depends_on, &rules]));
    (failure.sqlstate, failure.detail)
}

#[test]
fn creation_tells_which_tasks_depend_on_none() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let sql = "SELECT task_id, is_ready FROM workflow.create_task_instances($1, '{a,b,c}', depends_on => $2)";
    let rows = client.query(sql, &[&run, &json!({"b": ["a"], "c": []})]).unwrap();
    let tasks: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(tasks, [("a".into(), true), ("b".into(), false), ("c".into(), true)]);
    let rows = client.query("SELECT is_ready FROM workflow.create_task_instances($1, '{d}')", &[&run]).unwrap();
    assert!(rows[0].get::<_, bool>(0));
}

#[test]
fn bad_dependencies_are_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let none = json!({});
    for (depends_on, rules, detail) in [
        (json!([]), none.clone(), json!({"argument": "depends_on", "value": null})),
        (json!({"a": "b"}), none.clone(), json!({"argument": "depends_on", "value": null})),
        (json!({"a": [1]}), none.clone(), json!({"argument": "depends_on", "value": null})),
        (json!({"x": ["a"]}), none.clone(), json!({"argument": "depends_on", "task_id": "x"})),
        (json!({"a": ["x"]}), none.clone(), json!({"argument": "depends_on", "task_id": "x"})),
        (json!({"a": ["a"]}), none.clone(), json!({"argument": "depends_on", "task_id": "a", "cycle": ["a", "a"]})),
        (
            json!({"a": ["c"], "b": ["a"], "c": ["b", "d"]}),
            none.clone(),
            json!({"argument": "depends_on", "cycle": ["a", "c", "b", "a"]}),
        ),
        (none.clone(), json!([]), json!({"argument": "trigger_rules", "value": null})),
        (none.clone(), json!({"x": "all_done"}), json!({"argument": "trigger_rules", "task_id": "x"})),
        (none.clone(), json!({"a": "always"}), json!({"argument": "trigger_rules", "task_id": "a", "value": "always"})),
    ] {
        let error = rejected(client, run, &["a", "b", "c", "d"], depends_on, rules);
        assert_eq!(error, ("22023".into(), detail));
    }
    let count = "SELECT (SELECT count(*) FROM workflow.task_instances) + (SELECT count(*) FROM workflow.joins)
        + (SELECT count(*) FROM workflow.waits)";
    assert_eq!(client.query_one(count, &[]).unwrap().get::<_, i64>(0), 0);
}

#[test]
fn dependencies_that_are_no_texts_are_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (argument, value, detail) in [
        ("trigger_rules", r#"{"c": "all_done", "zz": 1e400}"#, json!({"argument": "trigger_rules", "task_id": "zz"})),
        ("trigger_rules", r#"{"a": "all_done", "c": 1e400}"#, json!({"argument": "trigger_rules", "value": null})),
        (
            "trigger_rules",
            &format!(r#"{{"a": "all_done", "c": {deep}}}"#),
            json!({"argument": "trigger_rules", "value": null}),
        ),
        ("trigger_rules", "1e400", json!({"argument": "trigger_rules", "value": null})),
        ("depends_on", &format!(r#"{{"c": ["a", {deep}]}}"#), json!({"argument": "depends_on", "value": null})),
        ("depends_on", r#"{"c": ["a", 1e400]}"#, json!({"argument": "depends_on", "value": null})),
        ("depends_on", r#"{"c": {"a": "a"}}"#, json!({"argument": "depends_on", "value": null})),
    ] {
        let sql = format!("SELECT FROM workflow.create_task_instances($1, '{{a,c}}', {argument} => $2::text::jsonb)");
        let failure = failure(client.query(&sql, &[&run, &value]));
        assert_eq!((failure.sqlstate.as_str(), &failure.detail), ("22023", &detail), "{value}");
    }
}

/// Lists that are equal but for their order, names of several lengths, and more entries than PostgreSQL's stride of offsets.
#[test]
fn large_graphs_are_read_as_they_are_written() {
    let db = Db::new();
    let client = &mut db.connect();
    let parents: Vec<String> = (0..100).map(|n| format!("parent_ü{}", "x".repeat(n))).collect();
    let mut reversed = parents.clone();
    reversed.reverse();
    let children: Vec<String> = (0..100).map(|n| format!("child_{n}")).collect();
    let lists = |n: usize| {
        json!(match n % 3 {
            0 => &parents[..],
            1 => &reversed,
            _ => &parents[n..],
        })
    };
    let depends_on: serde_json::Map<_, _> =
        children.iter().enumerate().map(|(n, child)| (child.clone(), lists(n))).collect();
    let rules: serde_json::Map<_, _> = children.iter().map(|child| (child.clone(), json!("all_done"))).collect();
    let names: Vec<&str> = parents.iter().chain(&children).map(String::as_str).collect();
    let graph = Graph::create(client, &names, Value::Object(depends_on), Value::Object(rules));
    let sql = "SELECT parents, children FROM workflow.dag_run_graph($1)";
    let mut found = BTreeMap::new();
    for row in client.query(sql, &[&graph.run]).unwrap() {
        let (mut parents, children): (Vec<String>, Vec<String>) = (row.get(0), row.get(1));
        parents.sort();
        children.into_iter().for_each(|child| assert!(found.insert(child, parents.clone()).is_none()));
    }
    assert_eq!(found.len(), 100);
    for (n, child) in children.iter().enumerate() {
        let mut expected: Vec<String> = serde_json::from_value(lists(n)).unwrap();
        expected.sort();
        assert_eq!(found[child], expected, "{child}");
    }
    let count = "SELECT count(*) FROM workflow.joins WHERE children <> '{}'";
    assert_eq!(client.query_one(count, &[]).unwrap().get::<_, i64>(0), 34);
}

#[test]
fn ended_run_takes_no_dependencies() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a"], json!({}), json!({}));
    graph.end(client, "a", "success");
    assert_eq!(graph.run_state(client), "success");
    let (sqlstate, detail) = rejected(client, graph.run, &["b"], json!({"b": ["a"]}), json!({}));
    assert_eq!((sqlstate.as_str(), &detail["state"]), ("55000", &json!("success")));
}

#[test]
fn run_takes_no_more_tasks_than_the_setting() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b"], json!({}), json!({}));
    client.batch_execute("SET pg_workflow.max_tasks_per_run = 3").unwrap();
    let (sqlstate, detail) = rejected(client, graph.run, &["c", "d"], json!({}), json!({}));
    assert_eq!((sqlstate.as_str(), &detail["count"], &detail["max_count"]), ("54000", &json!(4), &json!(3)));
    let sql = "SELECT FROM workflow.create_task_instances($1, '{c,d}')";
    assert_eq!(client.query(sql, &[&graph.run]).unwrap().len(), 2, "without dependencies nothing changes");
}

#[test]
fn tasks_with_the_same_parents_share_a_join() {
    let db = Db::new();
    let client = &mut db.connect();
    let names = ["a", "b", "c", "d", "e", "f"];
    let depends_on = json!({"c": ["a", "b"], "d": ["b", "a", "a"], "e": ["a", "b"], "f": ["c", "d", "e"]});
    let graph = Graph::create(client, &names, depends_on, json!({"e": "all_done"}));
    let sql = "SELECT trigger_rule, parents, children, is_decided FROM workflow.dag_run_graph($1)";
    let rows = client.query(sql, &[&graph.run]).unwrap();
    let mut joins: Vec<(String, Vec<String>, Vec<String>, bool)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    joins.sort();
    let join = |rule: &str, parents: &[&str], children: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        (rule.to_owned(), names(parents), names(children), false)
    };
    let expected = [
        join("all_done", &["a", "b"], &["e"]),
        join("all_success", &["a", "b"], &["c", "d"]),
        join("all_success", &["c", "d", "e"], &["f"]),
    ];
    assert_eq!(joins, expected);
    let sql = "SELECT parent, state FROM workflow.why_waiting($1)";
    let why: Vec<(String, String)> =
        client.query(sql, &[&graph.id("c")]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(why, [("a".into(), "queued".into()), ("b".into(), "queued".into())]);
    let waiting = client.query("SELECT task_id FROM workflow.waiting ORDER BY task_id", &[]).unwrap();
    assert_eq!(waiting.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["c", "d", "e", "f"]);
    let failure =
        failure(client.execute("UPDATE workflow.task_instances SET join_id = NULL WHERE id = $1", &[&graph.id("c")]));
    assert_eq!(failure.sqlstate, "428C9");
}

#[test]
fn dependency_on_ended_task_is_decided_by_the_commit() {
    let db = Db::new();
    let client = &mut db.connect();
    let mut graph = Graph::create(client, &["a", "b", "open"], json!({}), json!({}));
    graph.end(client, "a", "success");
    graph.end(client, "b", "failed");
    graph.add(
        client,
        &["c", "d", "e", "f"],
        json!({"c": ["a"], "d": ["b"], "e": ["a", "open"], "f": ["b", "open"]}),
        json!({"f": "one_failed"}),
    );
    assert_eq!(graph.ready(client), ["c", "f", "open"]);
    assert_eq!(graph.state(client, "d"), "failed");
    graph.end(client, "open", "success");
    assert_eq!(graph.ready(client), ["c", "e", "f"]);
}
