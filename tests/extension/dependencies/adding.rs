//! Adding dependencies between tasks that exist.

use super::*;
use serde_json::json;
use std::sync::Barrier;

const ADD: &str = "SELECT workflow.add_dependencies($1, $2, $3, $4)";

fn add(client: &mut impl postgres::GenericClient, graph: &Graph, parents: &[&str], children: &[&str]) -> i64 {
    client.query_one(ADD, &[&graph.run, &parents, &children, &None::<&str>]).unwrap().get(0)
}

/// The SQLSTATE and the DETAIL of a call that is rejected.
fn rejected(client: &mut Client, run: Uuid, parents: &[&str], children: &[&str]) -> (String, Value) {
    let failure = failure(client.query(ADD, &[&run, &parents, &children, &None::<&str>]));
    (failure.sqlstate, failure.detail)
}

fn claim(client: &mut impl postgres::GenericClient) -> Vec<(String, String)> {
    let sql = "SELECT task_id, claim FROM workflow.claim_tasks('worker', '{graph}', 100)";
    client.query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The parents and children of each join.
fn joins(client: &mut Client, run: Uuid) -> Vec<(Vec<String>, Vec<String>)> {
    let sql = "SELECT parents, children FROM workflow.dag_run_graph($1)";
    let rows = client.query(sql, &[&run]).unwrap();
    let mut joins: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    joins.sort();
    joins
}

fn join(parents: &[&str], children: &[&str]) -> (Vec<String>, Vec<String>) {
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    (names(parents), names(children))
}

#[test]
fn child_waits_for_added_parents_too() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c", "d"], json!({"c": ["a"], "d": ["a"]}), json!({}));
    assert_eq!(add(client, &graph, &["a", "b"], &["c"]), 1);
    assert_eq!(joins(client, graph.run), [join(&["a"], &["d"]), join(&["a", "b"], &["c"])]);
    assert_eq!(add(client, &graph, &["a", "b"], &["c"]), 0, "it has them");
    assert_eq!(add(client, &graph, &[], &["c"]), 0);
    graph.end(client, "a", "success");
    assert_eq!(graph.ready(client), ["b", "d"]);
    graph.end(client, "b", "success");
    assert_eq!(graph.ready(client), ["c", "d"]);
    ["c", "d"].iter().for_each(|name| graph.end(client, name, "success"));
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
}

#[test]
fn joins_without_children_are_gone() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c", "d"], json!({"c": ["a"], "d": ["a"]}), json!({}));
    assert_eq!(add(client, &graph, &["b"], &["c", "d"]), 2);
    assert_eq!(joins(client, graph.run), [join(&["a", "b"], &["c", "d"])]);
    assert_eq!(undecided(client), 2, "the new one, and the run's own");
    let why = client.query("SELECT parent FROM workflow.why_waiting($1)", &[&graph.id("d")]).unwrap();
    assert_eq!(why.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["a", "b"]);
}

#[test]
fn child_that_was_ready_leaves_its_queue() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b"], json!({}), json!({}));
    assert_eq!(graph.ready(client), ["a", "b"]);
    assert_eq!(add(client, &graph, &["a"], &["b"]), 1);
    assert_eq!(graph.ready(client), ["a"]);
    let claims = claim(client);
    assert_eq!(claims.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a"]);
    client.query("SELECT workflow.complete_claim($1)", &[&claims[0].1]).unwrap();
    assert_eq!(claim(client)[0].0, "b");
}

#[test]
fn rule_stays_unless_one_is_given() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(
        client,
        &["a", "b", "c", "d"],
        json!({"c": ["a"], "d": ["a"]}),
        json!({"c": "all_done", "d": "all_done"}),
    );
    add(client, &graph, &["b"], &["c"]);
    let row = client.query_one(ADD, &[&graph.run, &["b"].as_slice(), &["d"].as_slice(), &Some("one_failed")]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    graph.end(client, "a", "failed");
    assert_eq!(graph.ready(client), ["b", "d"]);
    graph.end(client, "b", "failed");
    assert_eq!(graph.ready(client), ["c", "d"]);
}

#[test]
fn parents_that_have_ended_decide_at_the_commit() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["good", "bad", "c", "d"], json!({}), json!({}));
    graph.end(client, "good", "success");
    graph.end(client, "bad", "failed");
    let mut transaction = client.transaction().unwrap();
    add(&mut transaction, &graph, &["good"], &["c"]);
    add(&mut transaction, &graph, &["bad"], &["d"]);
    transaction.commit().unwrap();
    assert_eq!(graph.ready(client), ["c"]);
    assert_eq!(graph.state(client, "d"), "failed");
}

#[test]
fn bad_additions_are_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c", "d"], json!({"b": ["a"], "c": ["b"]}), json!({}));
    let before = joins(client, graph.run);
    for (parents, children, detail) in [
        (["x"], ["a"], json!({"argument": "parents", "task_id": "x"})),
        (["a"], ["x"], json!({"argument": "children", "task_id": "x"})),
        (["a"], ["a"], json!({"argument": "parents", "task_id": "a", "cycle": ["a", "a"]})),
        (["c"], ["a"], json!({"argument": "parents", "cycle": ["a", "c", "b", "a"]})),
        (["c"], ["b"], json!({"argument": "parents", "cycle": ["b", "c", "b"]})),
    ] {
        assert_eq!(rejected(client, graph.run, &parents, &children), ("22023".into(), detail));
    }
    let mut rule = |rule| failure(client.query(ADD, &[&graph.run, &["a"].as_slice(), &["d"].as_slice(), &Some(rule)]));
    assert_eq!(rule("always").detail, json!({"argument": "trigger_rule", "value": "always"}));
    let nulls = failure(client.query("SELECT workflow.add_dependencies($1, '{a,null}', '{d}')", &[&graph.run]));
    assert_eq!(nulls.detail, json!({"argument": "parents", "value": null}));
    assert_eq!(rejected(client, Uuid::nil(), &["a"], &["b"]).0, "P0002");
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert_eq!(rejected(client, graph.run, &["d"], &["b"]).0, "25001");
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(joins(client, graph.run), before);
}

/// Also if the parent is the older one: what was added before counts.
#[test]
fn path_of_a_long_cycle_says_how_much_longer_it_is() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let names: Vec<String> = (0..300).map(|n| format!("t{n}")).collect();
    let chain: Value = names.windows(2).map(|pair| (pair[1].clone(), json!([pair[0]]))).collect();
    let mut ring = chain.clone();
    ring["t0"] = json!(["t299"]);
    let create = "SELECT count(*) FROM workflow.create_task_instances($1, $2, depends_on => $3)";
    let rejected = client.query_one(create, &[&run, &names, &ring]).unwrap_err();
    client.query_one(create, &[&run, &names, &chain]).unwrap();
    let added = client.query_one("SELECT workflow.add_dependencies($1, '{t299}', '{t0}')", &[&run]).unwrap_err();
    for error in [rejected, added] {
        let detail: Value = serde_json::from_str(error.as_db_error().unwrap().detail().unwrap()).unwrap();
        assert_eq!((detail["cycle"].as_array().unwrap().len(), &detail["more"]), (100, &json!(201)), "{detail}");
    }
}

#[test]
fn added_dependencies_make_no_cycle_together() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c"], json!({}), json!({}));
    add(client, &graph, &["c"], &["b"]);
    add(client, &graph, &["b"], &["a"]);
    let detail = json!({"argument": "parents", "cycle": ["c", "a", "b", "c"]});
    assert_eq!(rejected(client, graph.run, &["a"], &["c"]), ("22023".into(), detail));
}

#[test]
fn decided_child_takes_no_parents() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c", "d"], json!({"b": ["a"]}), json!({}));
    let refusal = |client: &mut Client, child: &str| {
        let (sqlstate, detail) = rejected(client, graph.run, &["d"], &[child]);
        assert_eq!((sqlstate.as_str(), &detail["task_id"]), ("55000", &json!(child)));
        detail["state"].as_str().unwrap().to_owned()
    };
    graph.end(client, "a", "success");
    assert_eq!(refusal(client, "b"), "queued");
    graph.move_to(client, "c", &["running"]);
    assert_eq!(refusal(client, "c"), "running");
    assert_eq!(refusal(client, "a"), "success");
    ["b", "d"].iter().for_each(|name| graph.end(client, name, "skipped"));
    graph.move_to(client, "c", &["success"]);
    let (sqlstate, detail) = rejected(client, graph.run, &["a"], &["b"]);
    assert_eq!(
        (sqlstate.as_str(), &detail["state"], &detail["entity_type"]),
        ("55000", &json!("success"), &json!("dag_run"))
    );
}

#[test]
fn run_of_added_dependencies_ends_itself() {
    let db = Db::new();
    let client = &mut db.connect();
    let (_, run) = create_run(client);
    let mut graph = Graph { run, ids: BTreeMap::new() };
    let sql = "SELECT task_id, id FROM workflow.create_task_instances($1, '{a,b,c}', queue => 'graph')";
    graph.ids.extend(client.query(sql, &[&run]).unwrap().iter().map(|row| (row.get(0), row.get(1))));
    add(client, &graph, &["a"], &["b"]);
    ["c", "a"].iter().for_each(|name| graph.end(client, name, "success"));
    assert_eq!(graph.run_state(client), "queued");
    graph.end(client, "b", "success");
    assert_eq!(graph.run_state(client), "success");
}

/// A claim waits for no lock, and an addition waits for the claim.
#[test]
fn claim_and_addition_exclude_each_other() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    for path in ["on", "off"] {
        client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
        let graph = Graph::create(client, &["a", "b"], json!({}), json!({}));
        let mut adding = other.transaction().unwrap();
        add(&mut adding, &graph, &["a"], &["b"]);
        let claims = claim(client);
        assert_eq!(claims.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a"], "{path}");
        adding.commit().unwrap();
        assert!(claim(client).is_empty(), "{path}");
        client.query("SELECT workflow.complete_claim($1)", &[&claims[0].1]).unwrap();
        let mut claiming = client.transaction().unwrap();
        assert_eq!(claim(&mut claiming)[0].0, "b");
        std::thread::scope(|scope| {
            let adding = scope.spawn(|| rejected(other, graph.run, &["a"], &["b"]));
            claiming.batch_execute("SELECT pg_sleep(0.05)").unwrap();
            claiming.commit().unwrap();
            let (sqlstate, detail) = adding.join().unwrap();
            assert_eq!((sqlstate.as_str(), &detail["state"]), ("55000", &json!("running")), "{path}");
        });
        graph.move_to(client, "b", &["success"]);
    }
}

#[test]
fn mapper_adds_tasks_as_its_claim_ends() {
    let db = Db::new();
    let client = &mut db.connect();
    for count in [0, 1, 50] {
        let mut graph = Graph::create(client, &["map", "join"], json!({"join": ["map"]}), json!({}));
        let claims = claim(client);
        let names: Vec<String> = (0..count).map(|n| format!("mapped {n}")).collect();
        let mapped: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut transaction = client.transaction().unwrap();
        transaction.query("SELECT workflow.complete_claim($1)", &[&claims[0].1]).unwrap();
        graph.add(&mut transaction, &mapped, json!({}), json!({}));
        assert_eq!(add(&mut transaction, &graph, &mapped, &["join"]), count);
        transaction.commit().unwrap();
        let mut order = Vec::new();
        loop {
            let sql = "SELECT task_id, workflow.complete_claim(claim) FROM workflow.claim_tasks('worker', '{graph}')";
            let Some(row) = client.query_opt(sql, &[]).unwrap() else { break };
            order.push(row.get::<_, String>(0));
        }
        assert_eq!(order.len() as i64, count + 1);
        assert_eq!(order.last().unwrap(), "join");
        assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
    }
}

/// Whichever comes first: an added parent is waited for, or the addition is rejected.
#[test]
fn additions_race_with_ends_of_parents() {
    const ROUNDS: usize = 60;
    let db = Db::new();
    let [client, adder, finisher] = &mut [db.connect(), db.connect(), db.connect()];
    let mut added = 0;
    for round in 0..ROUNDS {
        let names = ["p", "q", "r", "c"];
        let graph = Graph::create(client, &names, json!({"c": ["p"]}), json!({}));
        ["p", "q", "r"].iter().for_each(|name| graph.move_to(client, name, &["running"]));
        let barrier = Barrier::new(2);
        let is_added = std::thread::scope(|scope| {
            let adding = scope.spawn(|| {
                barrier.wait();
                ["q", "r"].map(|parent| {
                    match adder.query(ADD, &[&graph.run, &[parent].as_slice(), &["c"].as_slice(), &None::<&str>]) {
                        Ok(_) => true,
                        Err(error) => {
                            assert_eq!(error.code().unwrap().code(), "55000", "{error:?}");
                            false
                        }
                    }
                })
            });
            barrier.wait();
            graph.move_to(finisher, "p", &["success"]);
            if round % 2 == 0 {
                graph.move_to(finisher, "q", &["success"]);
            }
            adding.join().unwrap()
        });
        added += is_added.iter().filter(|is_added| **is_added).count();
        let parents: Vec<&str> =
            [("q", is_added[0]), ("r", is_added[1])].iter().filter(|one| one.1).map(|one| one.0).collect();
        // A look that met a lock of the other session is repeated.
        let look = |client: &mut Client| client.batch_execute("SELECT workflow.look_at_joins()").unwrap();
        for name in ["q", "r"] {
            if graph.state(client, name) == "running" {
                look(client);
                let has_to_wait = parents.iter().any(|parent| graph.state(client, parent) == "running");
                let is_ready = graph.ready(client) == ["c"];
                assert!(!(is_ready && has_to_wait), "round {round}, added: {parents:?}");
                graph.move_to(client, name, &["success"]);
            }
        }
        wait_until("the child can be claimed", || {
            look(client);
            graph.ready(client) == ["c"]
        });
        graph.end(client, "c", "success");
        wait_until("the run has ended", || {
            look(client);
            graph.run_state(client) == "success"
        });
        assert_eq!(undecided(client), 0, "round {round}");
    }
    assert!(added > 0, "no addition came first");
}
