//! Running again what failed, with what never ran because of it.

use super::*;
use serde_json::json;
use xtask::stack::postgres::PRELOADED;

/// A row of rerun_tasks(): name, state before and after, whether it may run at once.
type Row = (String, String, String, bool);

fn rerun_with(
    client: &mut impl postgres::GenericClient,
    run: Uuid,
    tasks: Option<&[&str]>,
    downstream: bool,
    dry_run: bool,
) -> Result<Vec<Row>, postgres::Error> {
    let sql = "SELECT task_id, old_state, new_state, is_ready FROM workflow.rerun_tasks($1, $2, $3, $4)";
    let rows = client.query(sql, &[&run, &tasks, &downstream, &dry_run])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
}

/// Runs all that failed again.
pub fn rerun(client: &mut impl postgres::GenericClient, run: Uuid) -> Vec<Row> {
    rerun_with(client, run, None, true, false).unwrap()
}

fn names(rows: &[Row]) -> Vec<(&str, bool)> {
    rows.iter().map(|row| (row.0.as_str(), row.3)).collect()
}

fn claim(client: &mut Client) -> Vec<(String, String)> {
    let sql = "SELECT task_id, claim FROM workflow.claim_tasks('worker', '{graph}', 100) ORDER BY task_id";
    client.query(sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Claims all that can be claimed, and ends it successfully. Returns the names.
fn complete(client: &mut Client) -> Vec<String> {
    let claims = claim(client);
    for (_, claim) in &claims {
        client.query("SELECT workflow.complete_claim($1)", &[claim]).unwrap();
    }
    claims.into_iter().map(|(name, _)| name).collect()
}

fn tries(client: &mut Client, graph: &Graph) -> Vec<(String, String, i32)> {
    let sql = "SELECT task_id, state, try_number FROM workflow.task_instances WHERE dag_run_id = $1 ORDER BY id";
    client.query(sql, &[&graph.run]).unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn waiting(client: &mut Client, graph: &Graph) -> Vec<String> {
    let sql = "SELECT task_id FROM workflow.waiting WHERE dag_run_id = $1 ORDER BY task_id";
    client.query(sql, &[&graph.run]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// a → b → c, and d, which has succeeded. `a` has failed.
fn failed_chain(client: &mut Client) -> Graph {
    let graph = Graph::create(client, &["a", "b", "c", "d"], json!({"b": ["a"], "c": ["b"]}), json!({}));
    graph.end(client, "d", "success");
    graph.end(client, "a", "failed");
    assert_eq!(graph.run_state(client), "failed");
    graph
}

#[test]
fn failed_task_runs_again_with_what_never_ran() {
    let db = Db::new();
    let client = &mut db.connect();
    for path in ["on", "off"] {
        client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
        let graph = failed_chain(client);
        let rows = rerun(client, graph.run);
        let row = |name: &str, is_ready| (name.to_owned(), "failed".to_owned(), "retrying".to_owned(), is_ready);
        assert_eq!(rows, [row("a", true), row("b", false), row("c", false)], "{path}");
        assert_eq!(graph.run_state(client), "running");
        assert_eq!(graph.metadata(client, graph.id("b")), json!({"reason": "rerun"}));
        assert_eq!(waiting(client, &graph), ["b", "c"]);
        let why = client.query("SELECT parent, state FROM workflow.why_waiting($1)", &[&graph.id("b")]).unwrap();
        assert_eq!(why.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<_>>(), [("a", "retrying")]);
        assert_eq!(graph.ready(client), ["a"]);
        assert!(db.problems().is_empty());
        for name in ["a", "b", "c"] {
            assert_eq!(complete(client), [name], "{path}");
        }
        let run = |name: &str, tries| (name.to_owned(), "success".to_owned(), tries);
        assert_eq!(tries(client, &graph), [run("a", 2), run("b", 1), run("c", 1), run("d", 1)]);
        assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
    }
}

#[test]
fn dry_run_returns_the_same_and_changes_nothing() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let graph = failed_chain(client);
    let sql = "SELECT count(*), max(id) FROM workflow.state_history";
    let events = |client: &mut Client| client.query_one(sql, &[]).unwrap().get::<_, i64>(0);
    let before = (tries(client, &graph), events(client));
    // It waits for no lock.
    let mut holder = other.transaction().unwrap();
    holder.batch_execute("SELECT FROM workflow.task_instances FOR UPDATE").unwrap();
    client.batch_execute("SET lock_timeout = '1 s'").unwrap();
    let rows = rerun_with(client, graph.run, None, true, true).unwrap();
    holder.rollback().unwrap();
    assert_eq!((tries(client, &graph), events(client)), before);
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("failed", 0));
    assert_eq!(rerun(client, graph.run), rows);
    assert!(rerun(client, graph.run).is_empty(), "nothing is failed any more");
}

#[test]
fn named_tasks_run_again_and_what_is_behind_them() {
    let db = Db::new();
    let client = &mut db.connect();
    let depends_on = json!({"b": ["a"], "c": ["b"], "y": ["x"]});
    let graph = Graph::create(client, &["a", "b", "c", "x", "y"], depends_on, json!({}));
    ["a", "x"].iter().for_each(|name| graph.end(client, name, "failed"));
    let mut would = |tasks: &[&str], downstream| rerun_with(client, graph.run, Some(tasks), downstream, true).unwrap();
    assert_eq!(names(&would(&["a"], true)), [("a", true), ("b", false), ("c", false)]);
    assert_eq!(names(&would(&["a"], false)), [("a", true)]);
    assert_eq!(names(&would(&["a", "b"], false)), [("a", true), ("b", false)]);
    assert_eq!(would(&[], true), []);
    assert_eq!(names(&rerun_with(client, graph.run, None, false, true).unwrap()), [("a", true), ("x", true)]);
    rerun_with(client, graph.run, Some(&["x"]), true, false).unwrap();
    assert_eq!((complete(client), complete(client)), (vec!["x".into()], vec!["y".into()]));
    assert_eq!(graph.run_state(client), "failed");
    assert_eq!(graph.metadata(client, graph.run)["failed"], json!(["a"]));
}

#[test]
fn bad_reruns_are_rejected() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c", "d"], json!({"b": ["a"]}), json!({}));
    graph.end(client, "a", "failed");
    graph.end(client, "c", "success");
    let mut refusal = |tasks: &[&str]| {
        let failure = failure(rerun_with(client, graph.run, Some(tasks), true, false));
        (failure.sqlstate, failure.detail)
    };
    let of_task = |name: &str, key: &str, value: Value| {
        let mut detail = json!({"entity_type": "task_instance", "entity_id": graph.id(name), "task_id": name});
        detail[key] = value;
        ("55000".to_owned(), detail)
    };
    assert_eq!(refusal(&["x"]), ("22023".into(), json!({"argument": "tasks", "task_id": "x"})));
    assert_eq!(refusal(&["a", "c"]), of_task("c", "state", json!("success")));
    assert_eq!(refusal(&["d"]), of_task("d", "state", json!("queued")));
    assert_eq!(refusal(&["b"]), of_task("b", "parents", json!(["a"])));
    assert_eq!(failure(rerun_with(client, Uuid::nil(), None, true, false)).sqlstate, "P0002");
    for arguments in ["NULL", "$1, '{a,NULL}'", "$1, '{a}', NULL", "$1, '{a}', true, NULL"] {
        let sql = format!("SELECT FROM workflow.rerun_tasks({})", arguments.replace("$1", &format!("'{}'", graph.run)));
        assert_eq!(failure(client.query(&sql, &[])).sqlstate, "22023", "{arguments}");
    }
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
        assert_eq!(failure(rerun_with(client, graph.run, None, true, false)).sqlstate, "25001");
        client.batch_execute("ROLLBACK").unwrap();
    }
    let done = Graph::create(client, &["a"], json!({}), json!({}));
    done.end(client, "a", "success");
    let failure = failure(rerun_with(client, done.run, None, true, false));
    let detail = json!({"entity_type": "dag_run", "entity_id": done.run, "state": "success"});
    assert_eq!((failure.sqlstate.as_str(), failure.detail), ("55000", detail));
}

/// A task that ran, too, waits for a parent that runs again.
#[test]
fn task_that_ran_waits_for_its_parents_again() {
    let db = Db::new();
    let client = &mut db.connect();
    for path in ["on", "off"] {
        client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
        let rules = json!({"cleanup": "all_done"});
        let graph = Graph::create(client, &["a", "cleanup"], json!({"cleanup": ["a"]}), rules);
        ["a", "cleanup"].iter().for_each(|name| graph.end(client, name, "failed"));
        assert_eq!(names(&rerun(client, graph.run)), [("a", true), ("cleanup", false)]);
        assert_eq!(waiting(client, &graph), ["cleanup"]);
        // Nothing lets it into its queue.
        let sql = "SELECT outcome FROM workflow.enqueue_task_instances(ARRAY[$1::uuid], 'graph', 1)";
        client.query_one(sql, &[&graph.id("cleanup")]).unwrap();
        assert_eq!(complete(client), ["a"], "{path}");
        assert_eq!(complete(client), ["cleanup"], "{path}");
        assert_eq!(graph.run_state(client), "success");
    }
}

/// What was allowed to start is not held back between two attempts.
#[test]
fn retry_of_a_task_that_was_started_does_not_wait() {
    let db = Db::new();
    let client = &mut db.connect();
    for path in ["on", "off"] {
        client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
        let graph = Graph::create(client, &["a", "b"], json!({"b": ["a"]}), json!({}));
        graph.move_to(client, "b", &["running", "retrying"]);
        assert_eq!((graph.ready(client), waiting(client, &graph)), (vec!["a".into(), "b".into()], vec![]), "{path}");
        graph.end(client, "a", "failed");
        assert_eq!(graph.state(client, "b"), "retrying", "{path}");
        assert_eq!(complete(client), ["b"]);
    }
}

#[test]
fn parent_that_fails_again_fails_its_children_again() {
    let db = Db::new();
    let client = &mut db.connect();
    for path in ["on", "off"] {
        client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
        let graph = failed_chain(client);
        for _ in 0..2 {
            rerun(client, graph.run);
            let claims = claim(client);
            client.query("SELECT workflow.fail_claim($1, 'again')", &[&claims[0].1]).unwrap();
            assert_eq!((graph.state(client, "c").as_str(), graph.run_state(client).as_str()), ("failed", "failed"));
        }
        let metadata = json!({
            "reason": "upstream_failed", "rule": "all_success", "upstream": ["a"], "error": "upstream failed: a",
        });
        assert_eq!(graph.metadata(client, graph.id("b")), metadata, "{path}");
        rerun(client, graph.run);
        (0..3).for_each(|_| assert_eq!(complete(client).len(), 1));
        assert_eq!(graph.run_state(client), "success");
    }
}

/// No transition leads from retrying to skipped.
#[test]
fn task_to_skip_that_was_put_back_fails() {
    let db = Db::new();
    let client = &mut db.connect();
    for path in ["on", "off"] {
        client.batch_execute(&format!("SET pg_workflow.direct_path = {path}")).unwrap();
        let depends_on = json!({"both": ["a", "k"], "alarm": ["a"]});
        let graph = Graph::create(client, &["a", "k", "both", "alarm"], depends_on, json!({"alarm": "one_failed"}));
        graph.end(client, "k", "skipped");
        ["a", "alarm"].iter().for_each(|name| graph.end(client, name, "failed"));
        assert_eq!(names(&rerun(client, graph.run)), [("a", true), ("both", false), ("alarm", false)]);
        assert_eq!(complete(client), ["a"]);
        let metadata = json!({
            "reason": "upstream_skipped", "rule": "all_success", "upstream": ["k"], "error": "upstream skipped: k",
        });
        assert_eq!(graph.metadata(client, graph.id("both")), metadata, "{path}");
        let metadata = json!({"reason": "rule_not_met", "rule": "one_failed", "error": "rule not met: one_failed"});
        assert_eq!(graph.metadata(client, graph.id("alarm")), metadata, "{path}");
        assert_eq!((graph.state(client, "alarm").as_str(), graph.run_state(client).as_str()), ("failed", "failed"));
        // They would end so again.
        assert!(rerun(client, graph.run).is_empty());
    }
}

#[test]
fn rerun_amid_a_run_holds_back_what_has_not_begun() {
    let db = Db::new();
    let client = &mut db.connect();
    let rules = json!({"cleanup": "all_done", "report": "all_done"});
    let depends_on = json!({"cleanup": ["a"], "report": ["a", "z"]});
    let graph = Graph::create(client, &["a", "z", "cleanup", "report"], depends_on, rules);
    graph.move_to(client, "z", &["running"]);
    graph.end(client, "a", "failed");
    assert_eq!(graph.ready(client), ["cleanup"]);
    assert_eq!(names(&rerun(client, graph.run)), [("a", true)]);
    assert_eq!(graph.run_state(client), "queued");
    assert_eq!(complete(client), ["a"]);
    assert_eq!(complete(client), ["cleanup"]);
    graph.move_to(client, "z", &["success"]);
    assert_eq!(complete(client), ["report"]);
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
}

/// Also if it has none left: an operator wants it.
#[test]
fn rerun_task_has_at_least_one_attempt() {
    let db = Db::new();
    let client = &mut db.connect();
    for (max_tries, states) in [(1, ["failed", "failed"]), (3, ["retrying", "failed"])] {
        let (_, run) = create_run(client);
        let sql = "SELECT id FROM workflow.create_task_instances($1, '{a}', $2, queue => 'graph', depends_on => '{}')";
        let task: Uuid = client.query_one(sql, &[&run, &max_tries]).unwrap().get(0);
        let attempt = |client: &mut Client, retry_after: &str| {
            let claim = &claim(client)[0].1;
            let sql = "SELECT state FROM workflow.fail_claim($1, 'broken', $2::text::interval)";
            client.query_one(sql, &[claim, &retry_after]).unwrap();
            state_of(client, "task_instance", task).0
        };
        assert_eq!(attempt(client, "-1 s"), "failed");
        assert_eq!(rerun(client, run).len(), 1);
        for state in states {
            if state_of(client, "task_instance", task).0 != "failed" {
                assert_eq!(attempt(client, "0 s"), state, "max_tries {max_tries}");
            }
        }
    }
}

#[test]
fn task_stopped_by_its_upstream_is_queued_again() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b"], json!({"b": ["a"]}), json!({}));
    graph.move_to(client, "b", &["running", "upstream_failed"]);
    graph.end(client, "a", "failed");
    client.execute("UPDATE workflow.dag_runs SET state = 'running' WHERE id = $1", &[&graph.run]).unwrap();
    client.execute("UPDATE workflow.dag_runs SET state = 'upstream_failed' WHERE id = $1", &[&graph.run]).unwrap();
    let rows = rerun(client, graph.run);
    assert_eq!(rows[1], ("b".into(), "upstream_failed".into(), "queued".into(), false));
    assert_eq!((graph.run_state(client).as_str(), graph.ready(client)), ("queued", vec!["a".into()]));
    assert_eq!((complete(client), complete(client)), (vec!["a".into()], vec!["b".into()]));
    assert_eq!(graph.run_state(client), "success");
}

#[test]
fn run_without_dependencies_is_left_to_its_orchestrator() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", pg_workflow_state_machine::State::Failed);
    let sql = "SELECT dag_run_id FROM workflow.task_instances WHERE id = $1";
    let run: Uuid = client.query_one(sql, &[&task]).unwrap().get(0);
    assert_eq!(rerun(client, run).len(), 1);
    ["running", "success"].iter().for_each(|state| {
        client.execute("UPDATE workflow.task_instances SET state = $2 WHERE id = $1", &[&task, state]).unwrap();
    });
    assert_eq!(state_of(client, "dag_run", run).0, "queued");
}

#[test]
fn undone_rerun_leaves_nothing() {
    let (_cluster, db) = own_cluster("undone_reruns", &[PRELOADED, ("max_prepared_transactions", "4")]);
    let client = &mut db.connect();
    let graph = failed_chain(client);
    client.batch_execute("BEGIN; SAVEPOINT s").unwrap();
    rerun(client, graph.run);
    client.batch_execute("ROLLBACK TO s; COMMIT").unwrap();
    for end in ["ROLLBACK", "COMMIT"] {
        assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("failed", 0), "{end}");
        client.batch_execute("BEGIN").unwrap();
        rerun(client, graph.run);
        client.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
        client.batch_execute(&format!("{end} PREPARED 'p'")).unwrap();
    }
    (0..3).for_each(|_| assert_eq!(complete(client).len(), 1));
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
}

#[test]
fn cancelled_task_that_was_put_back_fails() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = failed_chain(client);
    rerun(client, graph.run);
    client.query("SELECT workflow.request_cancel($1)", &[&graph.run]).unwrap();
    assert_eq!((graph.state(client, "c").as_str(), graph.run_state(client).as_str()), ("failed", "failed"));
    assert_eq!(names(&rerun(client, graph.run)), [("a", true), ("b", false), ("c", false)]);
}

/// A look that meets a rerun leaves the decision to it.
#[test]
fn rerun_and_decision_exclude_each_other() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let rules = json!({"c": "none_failed"});
    let graph = Graph::create(client, &["a", "b", "c"], json!({"c": ["a", "b"]}), rules);
    graph.move_to(client, "b", &["running"]);
    graph.end(client, "a", "failed");
    let mut rerunning = client.transaction().unwrap();
    assert_eq!(names(&rerun(&mut rerunning, graph.run)), [("a", true)]);
    // It cannot decide by the state that `a` had.
    graph.move_to(other, "b", &["success"]);
    rerunning.commit().unwrap();
    assert_eq!(graph.state(client, "c"), "queued");
    assert_eq!((complete(client), complete(client)), (vec!["a".into()], vec!["c".into()]));
}

/// A rerun sees what a decision in progress ends.
#[test]
fn rerun_waits_for_a_decision_in_progress() {
    let (_cluster, db) = own_cluster("waiting_reruns", &[PRELOADED, ("max_prepared_transactions", "4")]);
    let [client, other] = &mut [db.connect(), db.connect()];
    let graph = Graph::create(client, &["a", "b", "c"], json!({"c": ["a", "b"]}), json!({}));
    graph.move_to(client, "b", &["running"]);
    graph.end(client, "a", "failed");
    client.batch_execute("BEGIN").unwrap();
    graph.move_to(client, "b", &["success"]);
    client.batch_execute("PREPARE TRANSACTION 'decision'").unwrap();
    std::thread::scope(|scope| {
        let rerunning = scope.spawn(|| rerun(other, graph.run));
        wait_until("the rerun waits", || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            client.query_one(sql, &[]).unwrap().get::<_, i64>(0) > 0
        });
        client.batch_execute("COMMIT PREPARED 'decision'").unwrap();
        assert_eq!(names(&rerunning.join().unwrap()), [("a", true), ("c", false)]);
    });
    assert_eq!((complete(client), complete(client)), (vec!["a".into()], vec!["c".into()]));
}

#[test]
fn event_of_a_rerun_names_the_role_that_acts() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = failed_chain(client);
    let writer = create_writer(client);
    let mut client = db.connect();
    client.batch_execute(&format!("SET ROLE {writer}")).unwrap();
    rerun(&mut client, graph.run);
    let sql = "SELECT DISTINCT acted_as FROM workflow.state_history WHERE metadata->>'reason' = 'rerun'";
    let rows = client.query(sql, &[]).unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<Option<String>>>(), [Some(writer)]);
}
