//! Later looks: parents that end at once leave a join that watches no task, and another session looks at it.

use super::looks::two_parents;
use super::*;
use postgres::error::SqlState;
use serde_json::json;
use xtask::stack::postgres::{PRELOADED, Postgres};

/// A database where transactions can be prepared.
fn prepared(name: &str) -> (Postgres, Db) {
    own_cluster(name, &[PRELOADED, ("max_prepared_transactions", "4")])
}

/// Ends both parents in two transactions, of which neither sees the other, or looks again.
fn end_at_once(db: &Db, graph: &Graph, state: &str) {
    let client = &mut db.connect();
    for name in ["a", "b"] {
        client.batch_execute("BEGIN").unwrap();
        graph.move_to(client, name, &[state]);
        client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).unwrap();
    }
    client.batch_execute("COMMIT PREPARED 'a'").unwrap();
    client.batch_execute("COMMIT PREPARED 'b'").unwrap();
}

fn claim(client: &mut impl postgres::GenericClient, queue: &str) -> Vec<String> {
    let sql = "SELECT task_id FROM workflow.claim_tasks('worker', ARRAY[$1], 100) ORDER BY task_id";
    client.query(sql, &[&queue]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Lets a trigger of an administrator refuse what a condition says, at the statement or at the commit.
fn refuse(client: &mut Client, table: &str, condition: &str, kind: &str) {
    let timing = if kind.is_empty() { "" } else { "DEFERRABLE INITIALLY DEFERRED" };
    client
        .batch_execute(&format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
             CREATE {kind} TRIGGER refuse AFTER UPDATE ON workflow.{table} {timing} FOR EACH ROW WHEN ({condition})
             EXECUTE FUNCTION refuse()"
        ))
        .unwrap();
}

/// Lets the refused children end after all.
fn stop_refusing(client: &mut Client, table: &str) {
    client.batch_execute(&format!("DROP TRIGGER refuse ON workflow.{table}")).unwrap();
}

/// Also one that PostgreSQL has no name for.
#[test]
fn warning_has_the_code_of_the_trigger_that_refuses() {
    let db = Db::new();
    let codes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let of_session = codes.clone();
    let mut config: postgres::Config = db.url().parse().unwrap();
    config.notice_callback(move |notice| {
        if notice.severity() == "WARNING" {
            of_session.lock().unwrap().push(notice.code().code().to_owned());
        }
    });
    let client = &mut config.connect(postgres::NoTls).unwrap();
    refuse(client, "task_instances", "NEW.task_id = 'bad' AND NEW.state = 'failed'", "");
    let with_code = "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
                     AS $$ BEGIN RAISE 'not this one' USING ERRCODE = 'ZX001'; END $$";
    client.batch_execute(with_code).unwrap();
    let graph = Graph::create(client, &["a", "bad"], json!({"bad": ["a"]}), json!({}));
    graph.move_to(client, "a", &["running", "failed"]);
    client.batch_execute(REAP).unwrap();
    let told = codes.lock().unwrap().clone();
    assert!(!told.is_empty() && told.iter().all(|code| code == "ZX001"), "{told:?}");
    stop_refusing(client, "task_instances");
    wait_until("a sweep", || {
        client.batch_execute(REAP).unwrap();
        graph.state(client, "bad") == "failed"
    });
}

#[test]
fn refused_child_keeps_nothing_else_from_moving() {
    for kind in ["", "CONSTRAINT"] {
        let (_cluster, db) = prepared("refused_child");
        let (mut client, warnings) = connect_with_warnings(&db);
        let client = &mut client;
        refuse(client, "task_instances", "NEW.task_id = 'bad' AND NEW.state = 'failed'", kind);
        let names = ["a", "b", "bad", "good"];
        let graph = Graph::create(client, &names, json!({"bad": ["a", "b"], "good": ["a", "b"]}), json!({}));
        let other = Graph::create(client, &["x", "y"], json!({}), json!({}));
        ["a", "b"].iter().for_each(|name| graph.move_to(client, name, &["running"]));
        end_at_once(&db, &graph, "failed");
        assert_eq!(claim(client, "graph"), ["x", "y"]);
        other.move_to(client, "x", &["success"]);
        client.batch_execute(REAP).unwrap();
        other.move_to(client, "y", &["success"]);
        assert_eq!(other.run_state(client), "success");
        assert_eq!([graph.state(client, "bad"), graph.state(client, "good")], ["queued", "failed"]);
        let warning = format!("cannot move task_instance {} to failed: not this one", graph.id("bad"));
        let told = warnings.lock().unwrap().clone();
        assert!(!told.is_empty() && told.iter().all(|line| *line == warning), "{told:?}");
        assert_eq!(db.problems().len(), 1, "{:?}", db.problems());
        stop_refusing(client, "task_instances");
        wait_until("a sweep", || {
            client.batch_execute(REAP).unwrap();
            graph.state(client, "bad") == "failed"
        });
        assert_eq!(graph.run_state(client), "failed");
    }
}

#[test]
fn end_of_a_parent_survives_what_refuses_its_child() {
    let db = Db::new();
    let (mut client, warnings) = connect_with_warnings(&db);
    let client = &mut client;
    refuse(client, "task_instances", "NEW.task_id = 'bad' AND NEW.state = 'failed'", "");
    refuse(client, "dag_runs", "NEW.state = 'failed'", "");
    let graph = Graph::create(client, &["a", "bad", "good"], json!({"bad": ["a"], "good": ["a"]}), json!({}));
    graph.end(client, "a", "failed");
    assert_eq!([graph.state(client, "bad"), graph.state(client, "good")], ["queued", "failed"]);
    assert_eq!(warnings.lock().unwrap().len(), 1);
    graph.end(client, "bad", "success");
    assert_eq!((graph.run_state(client).as_str(), warnings.lock().unwrap().len()), ("queued", 2));
    stop_refusing(client, "dag_runs");
    wait_until("a sweep", || {
        client.batch_execute(REAP).unwrap();
        graph.run_state(client) == "failed"
    });
}

#[test]
fn canceled_look_cancels_its_commit() {
    let db = Db::new();
    let client = &mut db.connect();
    client
        .batch_execute(
            "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_advisory_lock(1); RETURN NULL; END $$;
             CREATE TRIGGER sleep AFTER UPDATE ON workflow.task_instances FOR EACH ROW
             WHEN (NEW.task_id = 'b' AND NEW.state = 'failed')
             EXECUTE FUNCTION sleep()",
        )
        .unwrap();
    let graph = Graph::create(client, &["a", "b"], json!({"b": ["a"]}), json!({}));
    graph.move_to(client, "a", &["running"]);
    let other = &mut db.connect();
    other.batch_execute("SELECT pg_advisory_lock(1)").unwrap();
    let cancel = client.cancel_token();
    let error = std::thread::scope(|scope| {
        let end = scope.spawn(|| {
            client.execute("UPDATE workflow.task_instances SET state = 'failed' WHERE id = $1", &[&graph.id("a")])
        });
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        wait_until("the look", || other.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 1);
        cancel.cancel_query(postgres::NoTls).unwrap();
        end.join().unwrap().unwrap_err()
    });
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    // The session has no transaction left.
    client.batch_execute("BEGIN; ROLLBACK").unwrap();
    assert_eq!([graph.state(client, "a"), graph.state(client, "b")], ["running", "queued"]);
}

#[test]
fn claim_takes_the_task_that_its_look_is_about() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let graph = Graph::create(client, &["a", "b", "c"], json!({"c": ["a", "b"]}), json!({}));
    graph.move_to(client, "b", &["running"]);
    // The only parent left is being changed, and then is not.
    let mut open = other.transaction().unwrap();
    graph.move_to(&mut open, "a", &["running"]);
    graph.move_to(client, "b", &["success"]);
    open.rollback().unwrap();
    assert_eq!(claim(client, "graph"), ["a"]);
}

/// The transaction of a claim can be long: it neither holds the parents of others, nor hides what it decides.
#[test]
fn claim_in_a_block_holds_no_other_task() {
    let (_cluster, db) = prepared("claim_in_block");
    let [client, other] = &mut [db.connect(), db.connect()];
    let graph = two_parents(client);
    let unheld = two_parents(client);
    let mut open = other.transaction().unwrap();
    unheld.move_to(&mut open, "a", &["success"]);
    unheld.move_to(client, "b", &["success"]);
    open.rollback().unwrap();
    end_at_once(&db, &graph, "success");
    let mut block = other.transaction().unwrap();
    assert_eq!(claim(&mut block, "graph"), [""; 0]);
    client.batch_execute("SET lock_timeout = '1 s'").unwrap();
    unheld.move_to(client, "a", &["success"]);
    assert_eq!((graph.ready(client), unheld.ready(client)), (vec!["c".to_owned()], vec!["c".to_owned()]));
    block.commit().unwrap();
}

#[test]
fn commit_of_a_claim_in_a_block_looks() {
    let (_cluster, db) = prepared("claim_commit");
    let client = &mut db.connect();
    let graph = two_parents(client);
    end_at_once(&db, &graph, "success");
    let mut block = client.transaction().unwrap();
    assert_eq!(claim(&mut block, "graph"), [""; 0]);
    block.commit().unwrap();
    assert_eq!(graph.ready(client), ["c"]);
}

#[test]
fn look_of_a_rolled_back_claim_is_not_lost() {
    let (_cluster, db) = prepared("claim_rollback");
    let client = &mut db.connect();
    let graph = two_parents(client);
    end_at_once(&db, &graph, "success");
    let sql = "DO $$ BEGIN PERFORM workflow.claim_tasks('worker', '{graph}'); RAISE 'no'; EXCEPTION WHEN raise_exception THEN END $$";
    client.batch_execute(sql).unwrap();
    assert_eq!(claim(client, "graph"), ["c"]);
    graph.move_to(client, "c", &["success"]);
}

#[test]
fn later_look_is_recorded_for_the_owner() {
    let (_cluster, db) = prepared("later_look");
    let client = &mut db.connect();
    let owner: String = client.query_one("SELECT current_user::text", &[]).unwrap().get(0);
    let mut writer = db.connect_as(&create_writer(client));
    let graph = Graph::create(client, &["a", "b", "c", "d"], json!({"c": ["a", "b"], "d": ["c"]}), json!({}));
    ["a", "b"].iter().for_each(|name| graph.move_to(client, name, &["running"]));
    end_at_once(&db, &graph, "failed");
    assert_eq!(claim(&mut writer, "graph"), [""; 0]);
    assert_eq!(graph.run_state(client), "failed");
    let sql =
        "SELECT DISTINCT actor, acted_as FROM workflow.state_history WHERE dag_run_id = $1 AND new_state = 'failed'";
    let rows = client.query(sql, &[&graph.run]).unwrap();
    let actors: Vec<(String, Option<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(actors, [(owner, None)]);
}

#[test]
fn prepared_transaction_holds_no_task_of_others() {
    let (_cluster, db) = prepared("prepared_holds");
    let client = &mut db.connect();
    let graph = two_parents(client);
    client.batch_execute("BEGIN").unwrap();
    graph.move_to(client, "b", &["success"]);
    client.batch_execute("PREPARE TRANSACTION 'p'; SET lock_timeout = '1 s'").unwrap();
    graph.move_to(client, "a", &["success"]);
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    assert_eq!(claim(client, "graph"), ["c"]);
    graph.move_to(client, "c", &["success"]);
    // A new task on an old one.
    let mut graph = Graph::create(client, &["a"], json!({}), json!({}));
    client.batch_execute("BEGIN").unwrap();
    graph.add(client, &["b"], json!({"b": ["a"]}), json!({}));
    client.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
    graph.end(client, "a", "success");
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    assert_eq!(claim(client, "graph"), ["b"]);
    graph.move_to(client, "b", &["success"]);
    assert_eq!(graph.run_state(client), "success");
}

#[test]
fn commit_of_a_prepared_end_wakes_who_waits() {
    let (_cluster, db) = prepared("prepared_wakes");
    let [client, other, waiting] = &mut [db.connect(), db.connect(), db.connect()];
    let graph = two_parents(client);
    for (session, name) in [(&mut *client, "a"), (&mut *other, "b")] {
        session.batch_execute("BEGIN").unwrap();
        graph.move_to(session, name, &["success"]);
        session.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).unwrap();
    }
    client.batch_execute("COMMIT PREPARED 'a'").unwrap();
    // It drops the rows of the tasks that were moved by hand.
    assert_eq!(claim(client, "graph"), [""; 0]);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CALL%' AND wait_event = 'Extension'";
    let (found, took) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let row = waiting.query_one("CALL workflow.wait_for_tasks('{graph}', '30 s')", &[]).unwrap();
            (row.get::<_, bool>(0), std::time::Instant::now())
        });
        wait_until("a waiting session", || other.query_one(waits, &[]).unwrap().get::<_, i64>(0) == 1);
        let began = std::time::Instant::now();
        client.batch_execute("COMMIT PREPARED 'b'").unwrap();
        let (found, ended) = waiting.join().unwrap();
        (found, ended.saturating_duration_since(began))
    });
    assert!(found && took < std::time::Duration::from_millis(400), "{found} after {took:?}");
    assert_eq!(claim(client, "graph"), ["c"]);
    graph.move_to(client, "c", &["success"]);
}

#[test]
fn run_that_was_reopened_ends_with_its_task() {
    let db = Db::new();
    let client = &mut db.connect();
    let move_run = |client: &mut Client, graph: &Graph, state: &str| {
        client.execute("UPDATE workflow.dag_runs SET state = $2 WHERE id = $1", &[&graph.run, &state]).unwrap();
    };
    let graph = Graph::create(client, &["a", "c"], json!({"c": ["a"]}), json!({}));
    graph.end(client, "a", "success");
    graph.end(client, "c", "failed");
    assert_eq!(graph.run_state(client), "failed");
    move_run(client, &graph, "running");
    assert_eq!(graph.run_state(client), "running");
    graph.move_to(client, "c", &["running", "success"]);
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
    // The task first, and both at once.
    for together in [false, true] {
        let graph = Graph::create(client, &["a", "c"], json!({"c": ["a"]}), json!({}));
        graph.end(client, "a", "failed");
        let mut transaction = client.transaction().unwrap();
        graph.move_to(&mut transaction, "a", &["running"]);
        if !together {
            transaction.commit().unwrap();
            transaction = client.transaction().unwrap();
        }
        transaction.execute("UPDATE workflow.dag_runs SET state = 'running' WHERE id = $1", &[&graph.run]).unwrap();
        transaction.commit().unwrap();
        graph.move_to(client, "a", &["success"]);
        assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("failed", 0), "{together}");
    }
}

#[test]
fn parent_that_runs_again_is_watched_by_early_rules() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b", "c"], json!({"c": ["a", "b"]}), json!({"c": "one_success"}));
    ["a", "b"].iter().for_each(|name| graph.move_to(client, name, &["running"]));
    graph.move_to(client, "a", &["failed"]);
    graph.move_to(client, "a", &["running"]);
    graph.move_to(client, "a", &["success"]);
    assert_eq!(graph.ready(client), ["b", "c"][1..]);
}

/// While a transaction is in the way of a look, for however long, one of the sessions that wait for tasks looks again.
#[test]
fn one_waiting_session_looks_again_and_seldom() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let graph = Graph::create(client, &["a", "c"], json!({"c": ["a"]}), json!({}));
    let mut open = other.transaction().unwrap();
    open.query("SELECT FROM workflow.task_instances WHERE id = $1 FOR UPDATE", &[&graph.id("c")]).unwrap();
    graph.end(client, "a", "failed");
    let commits = |client: &mut Client| {
        let sessions = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend'";
        wait_until("the end of sessions", || client.query_one(sessions, &[]).unwrap().get::<_, i64>(0) == 2);
        let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
        client.query_one(sql, &[]).unwrap().get::<_, i64>(0)
    };
    let before = commits(client);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| db.connect().query("CALL workflow.wait_for_tasks('{nowhere}', '3 s')", &[]).unwrap());
        }
    });
    let made = commits(client) - before;
    assert!(made < 400, "{made} commits of 8 sessions in 3 s");
    open.rollback().unwrap();
    assert_eq!(graph.state(client, "c"), "queued");
    client.query("CALL workflow.wait_for_tasks('{nowhere}', '3 s')", &[]).unwrap();
    assert_eq!(graph.state(client, "c"), "failed");
}

#[test]
fn dependency_that_was_prepared_is_not_lost() {
    let (_cluster, db) = prepared("prepared_edges");
    let client = &mut db.connect();
    // Nothing is left to look at.
    for _ in 0..2 {
        client.batch_execute(REAP).unwrap();
    }
    let graph = Graph::create(client, &["a", "b", "c"], json!({"c": ["b"]}), json!({}));
    let add = "SELECT workflow.add_dependencies($1, '{a}', '{c}')";
    client.batch_execute("BEGIN").unwrap();
    client.query(add, &[&graph.run]).unwrap();
    client.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    ["a", "b"].iter().for_each(|name| graph.end(client, name, "success"));
    assert_eq!(claim(client, "graph"), ["c"]);
    graph.move_to(client, "c", &["success"]);
    assert_eq!(graph.run_state(client), "success");
}

#[test]
fn sweep_finds_what_a_restore_has_loaded() {
    let (cluster, db) = prepared("loaded_waits");
    let client = &mut db.connect();
    let graph = two_parents(client);
    end_at_once(&db, &graph, "success");
    // No claim looks at it, as after a restore into a database whose reaper has found nothing.
    let copy = Db::at(cluster.create_database("copy").unwrap()).without_verification();
    let target = &mut copy.connect();
    target.batch_execute("CREATE EXTENSION pg_workflow").unwrap();
    // The database gets an entry in shared memory.
    create_task(target);
    target.batch_execute("DELETE FROM workflow.dags").unwrap();
    target.batch_execute(REAP).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("archive");
    let mut dump = crate::operations::backup::program(&cluster, "pg_dump");
    crate::operations::backup::run(dump.args(["-Fc", "--dbname", db.url(), "--file"]).arg(&archive));
    let mut restore = crate::operations::backup::program(&cluster, "pg_restore");
    restore.args(["--data-only", "--disable-triggers", "--dbname", copy.url()]).arg(&archive);
    let _ = restore.output().unwrap();
    wait_until("a sweep", || {
        target.batch_execute(REAP).unwrap();
        graph.ready(target) == ["c"]
    });
}

#[test]
fn task_that_came_back_before_a_rollback_is_not_watched() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["x", "y"], json!({}), json!({}));
    ["x", "y"].iter().for_each(|name| graph.end(client, name, "failed"));
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("failed", 0));
    let mut transaction = client.transaction().unwrap();
    let mut savepoint = transaction.transaction().unwrap();
    graph.move_to(&mut savepoint, "x", &["running"]);
    savepoint.rollback().unwrap();
    transaction.commit().unwrap();
    assert_eq!(undecided(client), 0);
    let mut transaction = client.transaction().unwrap();
    let mut savepoint = transaction.transaction().unwrap();
    graph.move_to(&mut savepoint, "x", &["running"]);
    savepoint.rollback().unwrap();
    graph.move_to(&mut transaction, "y", &["running"]);
    transaction.execute("UPDATE workflow.dag_runs SET state = 'running' WHERE id = $1", &[&graph.run]).unwrap();
    transaction.commit().unwrap();
    graph.move_to(client, "y", &["success"]);
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("failed", 0));
}

/// A look that takes long, and is in vain, keeps none of the other joins from theirs.
#[test]
fn long_look_delays_no_other_join() {
    let (_cluster, db) = prepared("long_look");
    let [client, other] = &mut [db.connect(), db.connect()];
    let (_, run) = create_run(client);
    let create = "SELECT count(*) FROM workflow.create_task_instances($1, ARRAY(SELECT 't' || n FROM generate_series(1, 20000) AS n), depends_on => '{}')";
    client.query_one(create, &[&run]).unwrap();
    let mut holds = other.transaction().unwrap();
    holds.query("SELECT FROM workflow.dag_runs WHERE id = $1 FOR KEY SHARE", &[&run]).unwrap();
    client.execute("UPDATE workflow.task_instances SET state = 'skipped' WHERE dag_run_id = $1", &[&run]).unwrap();
    assert_eq!(claim(client, "graph").len(), 0);
    for _ in 0..3 {
        let graph = two_parents(client);
        end_at_once(&db, &graph, "success");
        assert_eq!(claim(client, "graph"), ["c"]);
        graph.move_to(client, "c", &["success"]);
    }
    holds.rollback().unwrap();
    wait_until("the end of the run", || {
        client.batch_execute(REAP).unwrap();
        state_of(client, "dag_run", run).0 == "skipped"
    });
}
