//! Tasks that a run with dependencies gets later, without any of their own.

use super::*;
use serde_json::json;
use xtask::stack::postgres::PRELOADED;

const CREATE: &str = "SELECT task_id FROM workflow.create_task_instances($1, ARRAY[$2], queue => 'graph')";

/// Creates a task without dependencies.
fn add_task(client: &mut impl postgres::GenericClient, run: Uuid, name: &str) {
    assert_eq!(client.query(CREATE, &[&run, &name]).unwrap().len(), 1);
}

fn end_task(client: &mut impl postgres::GenericClient, name: &str) {
    let sql = "UPDATE workflow.task_instances SET state = 'skipped' WHERE task_id = $1";
    assert_eq!(client.execute(sql, &[&name]).unwrap(), 1);
}

/// A run with all its tasks.
fn with_tasks(client: &mut Client, run: Uuid) -> Graph {
    let sql = "SELECT task_id, id FROM workflow.task_instances WHERE dag_run_id = $1";
    Graph { run, ids: client.query(sql, &[&run]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect() }
}

/// How many parents the join of a run has, and how many tasks it watches.
fn watched(client: &mut Client, run: Uuid) -> (i64, i64) {
    let sql = "SELECT (SELECT cardinality(parents)::bigint FROM workflow.joins WHERE id = $1),
        (SELECT count(*) FROM workflow.waits WHERE join_id = $1)";
    let row = client.query_one(sql, &[&run]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn ended_run_with_dependencies_takes_no_tasks() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a"], json!({}), json!({}));
    graph.end(client, "a", "success");
    let failure = failure(client.query(CREATE, &[&graph.run, &"late"]));
    assert_eq!((failure.sqlstate.as_str(), &failure.detail["state"]), ("55000", &json!("success")));
    let count = "SELECT count(*) FROM workflow.task_instances";
    assert_eq!(client.query_one(count, &[]).unwrap().get::<_, i64>(0), 1);
    client.batch_execute("UPDATE workflow.dag_runs SET state = 'running' WHERE state = 'failed'").unwrap();
    let (_, other) = create_run(client);
    client.execute("UPDATE workflow.dag_runs SET state = 'skipped' WHERE id = $1", &[&other]).unwrap();
    add_task(client, other, "by_hand");
}

#[test]
fn run_does_not_end_while_tasks_are_created_in_it() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    for commits in [true, false] {
        let graph = Graph::create(client, &["a"], json!({}), json!({}));
        let mut creation = other.transaction().unwrap();
        add_task(&mut creation, graph.run, "late");
        graph.end(client, "a", "success");
        assert_eq!(graph.run_state(client), "queued");
        if commits {
            creation.commit().unwrap();
            assert_eq!(graph.run_state(client), "queued");
            end_task(client, "late");
        } else {
            creation.rollback().unwrap();
            // A look that was in the way of a creation is repeated.
            client.batch_execute("SELECT workflow.reap_claims()").unwrap();
        }
        assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0), "{commits}");
    }
}

#[test]
fn run_waits_for_creations_from_before_its_dependencies() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    // The queue exists, so that its creation is not waited for.
    Graph::create(client, &["other"], json!({}), json!({})).end(client, "other", "success");
    let (_, run) = create_run(client);
    let mut creation = other.transaction().unwrap();
    add_task(&mut creation, run, "late");
    let mut graph = Graph { run, ids: BTreeMap::new() };
    graph.add(client, &["a"], json!({}), json!({}));
    graph.end(client, "a", "success");
    creation.commit().unwrap();
    assert_eq!(graph.run_state(client), "queued");
    end_task(client, "late");
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
}

#[test]
fn creation_waits_for_the_end_of_the_run_only() {
    let (_cluster, db) = own_cluster("late_tasks", &[PRELOADED, ("max_prepared_transactions", "4")]);
    let [client, other] = &mut [db.connect(), db.connect()];
    let prepare_end = |client: &mut Client, graph: &Graph, name: &str| {
        graph.move_to(client, name, &["running"]);
        client.batch_execute("BEGIN").unwrap();
        graph.move_to(client, name, &["success"]);
        client.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
    };
    other.batch_execute("SET lock_timeout = '2s'").unwrap();
    let graph = Graph::create(client, &["a", "b"], json!({}), json!({}));
    prepare_end(client, &graph, "b");
    add_task(other, graph.run, "late");
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    graph.end(client, "a", "success");
    assert_eq!(graph.run_state(client), "queued");
    let graph = with_tasks(client, graph.run);
    prepare_end(client, &graph, "late");
    other.batch_execute("SET lock_timeout = '100ms'").unwrap();
    assert_eq!(failure(other.query(CREATE, &[&graph.run, &"later"])).sqlstate, "55P03");
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    assert_eq!(graph.run_state(client), "success");
    assert_eq!(failure(other.query(CREATE, &[&graph.run, &"later"])).sqlstate, "55000");
}

#[test]
fn creations_in_two_runs_wait_for_none() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let [a, b] = [(); 2].map(|()| Graph::create(client, &["first"], json!({}), json!({})).run);
    client.batch_execute("SET lock_timeout = '2s'").unwrap();
    other.batch_execute("SET lock_timeout = '2s'").unwrap();
    let (mut one, mut two) = (client.transaction().unwrap(), other.transaction().unwrap());
    add_task(&mut one, a, "x");
    add_task(&mut two, b, "y");
    let sql = "SELECT FROM workflow.create_task_instances($1, '{z}', depends_on => '{\"z\": [\"first\"]}')";
    one.query(sql, &[&b]).unwrap();
    two.query(sql, &[&a]).unwrap();
    one.commit().unwrap();
    two.commit().unwrap();
}

#[test]
fn late_tasks_leave_the_join_of_their_run_as_it_is() {
    let db = Db::new();
    let client = &mut db.connect();
    for is_reversed in [false, true] {
        let graph = Graph::create(client, &["a"], json!({}), json!({}));
        let mut names: Vec<String> = (0..20).map(|n| format!("late_{n}")).collect();
        names.iter().for_each(|name| add_task(client, graph.run, name));
        assert_eq!(watched(client, graph.run), (1, 2));
        let graph = with_tasks(client, graph.run);
        if is_reversed {
            names.reverse();
        }
        graph.end(client, "a", "success");
        for name in &names {
            assert_eq!(graph.run_state(client), "queued", "{name}");
            graph.end(client, name, "success");
        }
        assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
    }
}

#[test]
fn late_tasks_keep_a_run_watched_as_others_end() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a"], json!({}), json!({}));
    add_task(client, graph.run, "late_0");
    graph.end(client, "a", "success");
    for n in 0..10 {
        add_task(client, graph.run, &format!("late_{}", n + 1));
        let sql = "SELECT w.ctid::text FROM workflow.waits AS w JOIN workflow.task_instances AS t ON t.id = w.watched
            WHERE w.join_id = $1 ORDER BY t.id DESC";
        let places = |client: &mut Client| -> Vec<String> {
            client.query(sql, &[&graph.run]).unwrap().iter().map(|row| row.get(0)).collect()
        };
        let before = places(client);
        end_task(client, &format!("late_{n}"));
        assert_eq!(places(client), before[..1], "{n}: the row of the creation stays");
    }
    end_task(client, "late_10");
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
}

#[test]
fn creations_race_with_the_end_of_the_run() {
    let db = Db::new();
    let client = &mut db.connect();
    for round in 0..20 {
        let graph = Graph::create(client, &["a"], json!({}), json!({}));
        let work = |worker: usize| {
            let client = &mut db.connect();
            for n in 0..50 {
                let name = format!("late_{worker}_{n}");
                match client.query(CREATE, &[&graph.run, &name]) {
                    Ok(_) => {}
                    Err(error) => return assert_eq!(failure::<()>(Err(error)).sqlstate, "55000"),
                }
                let sql = "UPDATE workflow.task_instances SET state = 'skipped' WHERE dag_run_id = $1 AND task_id = $2";
                assert_eq!(client.execute(sql, &[&graph.run, &name]).unwrap(), 1);
            }
        };
        let work = &work;
        std::thread::scope(|scope| {
            (0..3).for_each(|worker| _ = scope.spawn(move || work(worker)));
            graph.end(client, "a", "success");
        });
        client.batch_execute("SELECT workflow.reap_claims()").unwrap();
        assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0), "{round}");
        let sql = "SELECT count(*) FROM workflow.task_instances WHERE end_date IS NULL";
        assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 0, "{round}");
    }
}
