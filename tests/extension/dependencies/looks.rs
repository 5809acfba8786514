//! The look at the end of a transaction: rollbacks, prepared transactions, isolation levels, and races of two.

use super::*;
use serde_json::json;
use xtask::stack::postgres::PRELOADED;

pub fn two_parents(client: &mut Client) -> Graph {
    let graph = Graph::create(client, &["a", "b", "c"], json!({"c": ["a", "b"]}), json!({}));
    graph.move_to(client, "a", &["running"]);
    graph.move_to(client, "b", &["running"]);
    graph
}

#[test]
fn rolled_back_ends_decide_nothing() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = two_parents(client);
    let mut transaction = client.transaction().unwrap();
    graph.move_to(&mut transaction, "a", &["success"]);
    let mut savepoint = transaction.transaction().unwrap();
    graph.move_to(&mut savepoint, "b", &["success"]);
    savepoint.rollback().unwrap();
    transaction.commit().unwrap();
    assert_eq!(graph.ready(client), [""; 0]);
    let mut transaction = client.transaction().unwrap();
    graph.move_to(&mut transaction, "b", &["success"]);
    transaction.rollback().unwrap();
    assert_eq!(graph.ready(client), [""; 0]);
    graph.move_to(client, "b", &["success"]);
    assert_eq!(graph.ready(client), ["c"]);
}

#[test]
fn every_isolation_level_sees_the_end_of_the_other_parent() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let graph = two_parents(client);
        client
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM workflow.task_instances"))
            .unwrap();
        graph.move_to(other, "b", &["success"]);
        graph.move_to(client, "a", &["success"]);
        client.batch_execute("COMMIT").unwrap();
        assert_eq!(graph.ready(client), ["c"], "{level}");
        assert_eq!(undecided(client), 1, "{level}");
        graph.end(client, "c", "success");
    }
}

#[test]
fn failing_children_are_moved_at_every_isolation_level() {
    let db = Db::new();
    let client = &mut db.connect();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let graph = two_parents(client);
        client
            .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM workflow.task_instances"))
            .unwrap();
        graph.move_to(client, "b", &["success"]);
        graph.move_to(client, "a", &["failed"]);
        client.batch_execute("SET TRANSACTION READ ONLY; COMMIT").unwrap();
        assert_eq!(
            (graph.state(client, "c").as_str(), graph.run_state(client).as_str()),
            ("failed", "failed"),
            "{level}"
        );
    }
}

#[test]
fn repeatable_read_keeps_its_snapshot() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let mut graph = two_parents(client);
    let sql = "SELECT count(*) FROM workflow.task_instances";
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    let before: i64 = client.query_one(sql, &[]).unwrap().get(0);
    create_task(other);
    let enqueue = "SELECT outcome FROM workflow.enqueue_task_instances(ARRAY[$1::uuid], 'other')";
    client.query_one(enqueue, &[&graph.id("c")]).unwrap();
    graph.add(client, &["d"], json!({"d": ["c"]}), json!({}));
    client.query("SELECT FROM workflow.create_task_instances($1, '{e}')", &[&graph.run]).unwrap();
    client.batch_execute("SELECT workflow.reap_claims()").unwrap();
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), before + 2);
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn parents_that_end_at_once_leave_no_child_behind() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    for first_commits_first in [true, false] {
        let graph = two_parents(client);
        let (mut one, mut two) = (client.transaction().unwrap(), other.transaction().unwrap());
        graph.move_to(&mut one, "a", &["success"]);
        graph.move_to(&mut two, "b", &["success"]);
        if first_commits_first {
            one.commit().unwrap();
            two.commit().unwrap();
        } else {
            two.commit().unwrap();
            one.commit().unwrap();
        }
        let sql = "SELECT task_id FROM workflow.claim_tasks('worker', '{graph}')";
        let claims = client.query(sql, &[]).unwrap();
        assert_eq!(claims.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["c"], "{first_commits_first}");
        graph.move_to(client, "c", &["success"]);
        assert_eq!(graph.run_state(client), "success");
    }
}

#[test]
fn end_of_another_task_looks_again() {
    let db = Db::new();
    let [client, other] = &mut [db.connect(), db.connect()];
    let graph = two_parents(client);
    let (mut one, mut two) = (client.transaction().unwrap(), other.transaction().unwrap());
    graph.move_to(&mut one, "a", &["success"]);
    graph.move_to(&mut two, "b", &["success"]);
    one.commit().unwrap();
    two.commit().unwrap();
    graph.end(client, "c", "success");
    assert_eq!((graph.run_state(client).as_str(), undecided(client)), ("success", 0));
}

#[test]
fn prepared_transaction_has_looked() {
    let (_cluster, db) = own_cluster("prepared_looks", &[PRELOADED, ("max_prepared_transactions", "4")]);
    let client = &mut db.connect();
    let graph = two_parents(client);
    for name in ["a", "b"] {
        client.batch_execute("BEGIN").unwrap();
        graph.move_to(client, name, &["success"]);
        client.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
        assert_eq!(graph.ready(client), [""; 0]);
        client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    }
    assert_eq!(graph.ready(client), ["c"]);
}

#[test]
fn procedure_that_commits_looks_each_time() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = two_parents(client);
    let sql = format!(
        "DO $$ BEGIN
            UPDATE workflow.task_instances SET state = 'success' WHERE id = '{}'; COMMIT;
            UPDATE workflow.task_instances SET state = 'failed' WHERE id = '{}'; COMMIT;
        END $$",
        graph.id("a"),
        graph.id("b")
    );
    client.batch_execute(&sql).unwrap();
    assert_eq!((graph.state(client, "c").as_str(), graph.run_state(client).as_str()), ("failed", "failed"));
}

#[test]
fn deferred_triggers_of_others_see_what_the_look_moves() {
    let db = Db::new();
    let client = &mut db.connect();
    client
        .batch_execute(
            "CREATE TABLE seen (task_id text, state text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.seen VALUES (NEW.task_id, NEW.state); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON workflow.task_instances
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.state = 'failed') EXECUTE FUNCTION note()",
        )
        .unwrap();
    let graph = Graph::create(client, &["a", "b", "c"], json!({"b": ["a"], "c": ["b"]}), json!({}));
    graph.end(client, "a", "failed");
    let rows = client.query("SELECT task_id FROM seen ORDER BY task_id", &[]).unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["a", "b", "c"]);
}

#[test]
fn sweep_repeats_a_look_that_was_lost() {
    let db = Db::new();
    let client = &mut db.connect();
    let graph = Graph::create(client, &["a", "b"], json!({"b": ["a"]}), json!({}));
    graph.move_to(client, "a", &["running"]);
    client.batch_execute("SET session_replication_role = replica").unwrap();
    graph.move_to(client, "a", &["success"]);
    client.batch_execute("RESET session_replication_role").unwrap();
    assert_eq!(graph.ready(client), [""; 0]);
    let problems = db.problems();
    assert!(problems.iter().any(|problem| problem.starts_with("ended task is still watched")), "{problems:?}");
    // Sweeps are 10 s apart, also if the last one was in a database that is gone.
    wait_until("a sweep", || {
        client.batch_execute("SELECT workflow.reap_claims()").unwrap();
        graph.ready(client) == ["b"]
    });
    // The history lacks the transition in replica mode.
    let _unverified = db.without_verification();
}

#[test]
fn look_that_cannot_be_serialized_is_repeated_by_another_session() {
    let db = Db::new();
    let (mut client, warnings) = connect_with_warnings(&db);
    client.batch_execute("SET pg_workflow.direct_path = off; CREATE TABLE public.note (text text)").unwrap();
    let graph = Graph::create(&mut client, &["parent", "child"], json!({"child": ["parent"]}), json!({}));
    graph.move_to(&mut client, "parent", &["running"]);
    let mut ending =
        client.build_transaction().isolation_level(postgres::IsolationLevel::Serializable).start().unwrap();
    ending.batch_execute("SELECT FROM public.note").unwrap();
    graph.move_to(&mut ending, "parent", &["failed"]);
    // It reads what the look changes, which is after the INSERT that the look's transaction has not seen.
    let reader = &mut db.connect();
    reader.batch_execute("SET enable_seqscan = off; BEGIN ISOLATION LEVEL SERIALIZABLE").unwrap();
    assert_eq!(graph.state(reader, "child"), "queued");
    let insert = "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO public.note VALUES ('unseen'); COMMIT";
    db.connect().batch_execute(insert).unwrap();
    ending.commit().unwrap();
    assert_eq!(graph.state(&mut client, "child"), "queued");
    reader.batch_execute("ROLLBACK").unwrap();
    // No sweep: a claim looks again.
    client.execute("SELECT FROM workflow.claim_tasks('worker', ARRAY['graph'])", &[]).unwrap();
    assert_eq!(graph.state(&mut client, "child"), "failed");
    assert_eq!(*warnings.lock().unwrap(), Vec::<String>::new());
}
