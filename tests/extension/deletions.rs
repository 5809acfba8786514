//! Deletions of runs and tasks are events, whatever deletes them. What goes with its run, and what purge() takes, is not.

use fallible_iterator::FallibleIterator;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::{Client, GenericClient};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// The deletions in the history: entity, state before, version, actor, current role, in the order of the ids.
fn deletions(client: &mut impl GenericClient) -> Vec<(Uuid, String, i64, String, Option<String>)> {
    let sql = "SELECT entity_id, old_state, version, actor, acted_as
               FROM workflow.state_history WHERE new_state IS NULL ORDER BY id";
    let rows = client.query(sql, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect()
}

fn deleted_ids(client: &mut impl GenericClient) -> Vec<Uuid> {
    deletions(client).into_iter().map(|deletion| deletion.0).collect()
}

fn state_now(client: &mut Client, kind: &str, id: Uuid) -> Option<String> {
    client.query_one("SELECT workflow.state_at($1, $2, clock_timestamp())", &[&kind, &id]).unwrap().get(0)
}

fn run_of(client: &mut Client, task: Uuid) -> Uuid {
    client.query_one("SELECT dag_run_id FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap().get(0)
}

#[test]
fn deletion_is_an_event_with_its_actor() {
    let db = Db::new();
    let owner = &mut db.connect();
    let admin = create_role(owner, "workflow_admin");
    owner.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    let task = create_in_state(owner, "task_instance", State::Retrying);
    let run = run_of(owner, task);
    let before: chrono::DateTime<chrono::Utc> = owner.query_one("SELECT clock_timestamp()", &[]).unwrap().get(0);

    let client = &mut db.connect_as(&admin);
    client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap();
    client.batch_execute("SET ROLE workflow_admin").unwrap();
    client.execute("DELETE FROM workflow.dag_runs WHERE id = $1", &[&run]).unwrap();
    let of_task = (task, "retrying".to_owned(), 4, admin.clone(), None);
    let of_run = (run, "queued".to_owned(), 2, admin, Some("workflow_admin".to_owned()));
    assert_eq!(deletions(owner), [of_task, of_run]);

    for (kind, id, state) in [("task_instance", task, "retrying"), ("dag_run", run, "queued")] {
        assert_eq!(state_now(owner, kind, id), None, "{kind}");
        let sql = "SELECT workflow.state_at($1, $2, $3), (SELECT version FROM workflow.history($1, $2, 1))";
        let row = owner.query_one(sql, &[&kind, &id, &before]).unwrap();
        assert_eq!(row.get::<_, Option<&str>>(0), Some(state), "before the deletion");
        assert_eq!(row.get::<_, i64>(1), if kind == "dag_run" { 2 } else { 4 });
    }
    let sql = "SELECT to_jsonb(e) FROM workflow.read_events('reader') AS e WHERE new_state IS NULL";
    let read: Vec<Value> = owner.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let dag: Uuid = owner.query_one("SELECT id FROM workflow.dags", &[]).unwrap().get(0);
    let fields = |event: &Value| {
        ["entity_type", "dag_id", "dag_run_id", "task_id", "metadata"].map(|field| event[field].clone())
    };
    assert_eq!(fields(&read[0]), [json!("task_instance"), json!(dag), json!(run), json!("task_0"), json!({})]);
    assert_eq!(fields(&read[1]), [json!("dag_run"), json!(dag), json!(run), Value::Null, json!({})]);
}

fn create_role(owner: &mut Client, group: &str) -> String {
    let role = format!("role_{}", Uuid::new_v4().simple());
    owner.batch_execute(&format!("CREATE ROLE {role} LOGIN IN ROLE {group}")).unwrap();
    role
}

#[test]
fn statement_writes_an_event_for_each_deleted_row() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 40);
    let others = create_tasks(client, 2);
    let sql = "DELETE FROM workflow.task_instances WHERE id = ANY ($1) OR id = $2";
    assert_eq!(client.execute(sql, &[&tasks, &others[0]]).unwrap(), 41);
    let mut deleted = deleted_ids(client);
    deleted.sort();
    let mut expected = [&tasks[..], &others[..1]].concat();
    expected.sort();
    assert_eq!(deleted, expected);
    assert_eq!(client.execute("DELETE FROM workflow.task_instances WHERE task_id = 'none'", &[]).unwrap(), 0);
    assert_eq!(deleted_ids(client).len(), 41);
}

#[test]
fn cascade_writes_only_the_event_of_the_run() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 3);
    let run = run_of(client, tasks[0]);
    let others = create_tasks(client, 1);
    let other_run = run_of(client, others[0]);
    client.execute("DELETE FROM workflow.dag_runs WHERE id = $1", &[&run]).unwrap();
    assert_eq!(deleted_ids(client), [run], "its tasks went with it");
    // A DAG has no events, so each of its runs has one.
    client.batch_execute("DELETE FROM workflow.dags").unwrap();
    assert_eq!(deleted_ids(client), [run, other_run]);
    for task in [tasks[0], others[0]] {
        assert_eq!(history_len(client, task), 1);
        assert_eq!(state_now(client, "task_instance", task), None, "it went with its run");
    }
}

#[test]
fn run_and_tasks_deleted_at_once_are_told_by_the_run() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 2);
    let run = run_of(client, tasks[0]);
    let kept = create_tasks(client, 2);
    let kept_run = run_of(client, kept[0]);
    let sql = "WITH gone AS (DELETE FROM workflow.task_instances WHERE dag_run_id = $1 OR id = $2 RETURNING id)
               DELETE FROM workflow.dag_runs WHERE id = $1 AND EXISTS (SELECT FROM gone)";
    client.execute(sql, &[&run, &kept[0]]).unwrap();
    let mut deleted = deleted_ids(client);
    deleted.sort();
    let mut expected = [run, kept[0]];
    expected.sort();
    assert_eq!(deleted, expected);
    assert_eq!(state_now(client, "dag_run", kept_run).as_deref(), Some("queued"));
    // One after the other, in a transaction: each is told.
    let mut transaction = client.transaction().unwrap();
    transaction.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&kept[1]]).unwrap();
    transaction.execute("DELETE FROM workflow.dag_runs WHERE id = $1", &[&kept_run]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(deleted_ids(client)[2..], [kept[1], kept_run]);
}

#[test]
fn rolled_back_deletion_leaves_no_event() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 2);
    let mut transaction = client.transaction().unwrap();
    let mut inner = transaction.savepoint("part").unwrap();
    inner.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&tasks[0]]).unwrap();
    inner.rollback().unwrap();
    transaction.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&tasks[1]]).unwrap();
    transaction.commit().unwrap();
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("DELETE FROM workflow.dags").unwrap();
    assert_eq!(deleted_ids(&mut transaction).len(), 2);
    transaction.rollback().unwrap();
    assert_eq!(deleted_ids(client), [tasks[1]]);
    assert_eq!(state_now(client, "task_instance", tasks[0]).as_deref(), Some("queued"));
}

#[test]
fn truncate_is_not_an_event() {
    let db = Db::new();
    let client = &mut db.connect();
    create_tasks(client, 2);
    let events = "SELECT count(*) FROM workflow.state_history";
    let before: i64 = client.query_one(events, &[]).unwrap().get(0);
    client.batch_execute("TRUNCATE workflow.dag_runs CASCADE").unwrap();
    assert_eq!(client.query_one(events, &[]).unwrap().get::<_, i64>(0), before);
}

#[test]
fn notification_of_deletion_has_null_as_new_state() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let here: String = client.query_one("SELECT workflow.current_position()", &[]).unwrap().get(0);
    let listener = &mut db.connect();
    listener.batch_execute("LISTEN workflow_events").unwrap();
    client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap();
    let mut notifications = listener.notifications();
    let notification = notifications.timeout_iter(Duration::from_secs(10)).next().unwrap().expect("a notification");
    let told: Value = serde_json::from_str(notification.payload()).unwrap();
    assert_eq!((&told["entity_id"], &told["old_state"], &told["version"]), (&json!(task), &json!("queued"), &json!(2)));
    assert_eq!(told.get("new_state"), Some(&Value::Null), "{told}");
    let sql = "SELECT entity_id, new_state FROM workflow.follow_events($1)";
    let followed = client.query_one(sql, &[&here]).unwrap();
    assert_eq!((followed.get::<_, Uuid>(0), followed.get::<_, Option<String>>(1)), (task, None));
}

#[test]
fn tenant_deletes_its_own_rows_with_events() {
    let db = Db::new();
    let owner = &mut db.connect();
    let tenant = create_role(owner, "workflow_admin");
    owner.batch_execute("SELECT workflow.enable_row_security()").unwrap();
    let foreign = create_task(owner);
    let client = &mut db.connect_as(&tenant);
    let tasks = create_tasks(client, 2);
    assert_eq!(client.execute("DELETE FROM workflow.task_instances WHERE id <> $1", &[&tasks[1]]).unwrap(), 1);
    assert_eq!(deletions(client), [(tasks[0], "queued".to_owned(), 2, tenant, None)]);
    assert_eq!(history_len(owner, foreign), 1);
    client.batch_execute("DELETE FROM workflow.dags").unwrap();
    assert_eq!(deletions(owner).len(), 2, "the run's deletion, though its DAG is gone");
}

#[test]
fn counts_stay_exact_whether_deletions_have_events() {
    let db = Db::new();
    let client = &mut db.connect();
    let tasks = create_tasks(client, 5);
    create_in_state(client, "task_instance", State::Failed);
    client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    client.execute("DELETE FROM workflow.task_instances WHERE id = $1", &[&tasks[0]]).unwrap();
    let noted = "SELECT count(*) FROM workflow.state_count_changes";
    assert_eq!(client.query_one(noted, &[]).unwrap().get::<_, i64>(0), 0, "the event counts");
    assert_eq!(db.problems(), [""; 0]);
    client.batch_execute("DELETE FROM workflow.dags").unwrap();
    assert_eq!(client.query_one(noted, &[]).unwrap().get::<_, i64>(0), 2, "tasks of the cascade, by state");
    assert_eq!(db.problems(), [""; 0]);
}

#[test]
fn purge_writes_one_row_and_no_events() {
    let db = Db::new();
    let client = &mut db.connect();
    let admin = create_role(client, "workflow_admin");
    let finished: Vec<Uuid> = (0..3).map(|_| create_in_state(client, "dag_run", State::Success)).collect();
    client.query("SELECT workflow.create_task_instances($1, ARRAY['a', 'b'])", &[&finished[0]]).unwrap();
    age(client);
    client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    let events = "SELECT count(*) FROM workflow.state_history";
    let before: i64 = client.query_one(events, &[]).unwrap().get(0);
    let purger = &mut db.connect_as(&admin);
    let limit = "2026-01-02T03:04:05Z";
    for call in [
        format!("purge('{limit}')"),
        "purge(now() - interval '30 days', true)".to_owned(),
        "purge(now() - interval '30 days', max_runs => 2)".to_owned(),
        "purge(now() - interval '30 days')".to_owned(),
        "purge(now() - interval '30 days')".to_owned(),
    ] {
        purger.batch_execute(&format!("SELECT workflow.{call}")).unwrap();
    }
    assert_eq!(client.query_one(events, &[]).unwrap().get::<_, i64>(0), before);
    let sql = "SELECT dag_runs, task_instances, task_logs, purged_by,
                   before BETWEEN now() - interval '31 days' AND now() - interval '29 days' AND purged_at > now() - interval '1 hour'
               FROM workflow.purges ORDER BY id";
    let rows: Vec<(i64, i64, i64, String, bool)> = purger
        .query(sql, &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
        .collect();
    assert_eq!(
        rows,
        [(2, 2, 0, admin.clone(), true), (1, 0, 0, admin.clone(), true)],
        "dry and empty calls have no row"
    );
    assert_eq!(state_now(client, "dag_run", finished[0]).as_deref(), Some("success"), "its last state");
    assert_eq!(db.problems(), [""; 0]);

    // A part of purge() alone is no purge.
    let run = create_in_state(client, "dag_run", State::Failed);
    age(client);
    purger.batch_execute("SELECT workflow.delete_finished_runs(now() - interval '30 days', 9, false)").unwrap();
    assert_eq!(deletions(client), [(run, "failed".to_owned(), 3, admin, None)]);
    let refused = failure(purger.batch_execute("INSERT INTO workflow.purges (before) VALUES (now())"));
    assert_eq!(refused.sqlstate, "42501");
}

#[test]
fn deletion_within_a_statement_follows_its_transition() {
    let db = Db::new();
    let client = &mut db.connect();
    client
        .batch_execute(
            "CREATE FUNCTION public.remove(task uuid) RETURNS void LANGUAGE sql
             AS 'DELETE FROM workflow.task_instances WHERE id = task';
             CREATE FUNCTION public.remove_new() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 DELETE FROM workflow.task_instances WHERE id = NEW.id;
                 RETURN NULL;
             END $$;",
        )
        .unwrap();
    let versions = |client: &mut Client, task: Uuid| -> Vec<(i64, Option<String>)> {
        let sql = "SELECT version, new_state FROM workflow.state_history WHERE entity_id = $1 ORDER BY id";
        client.query(sql, &[&task]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let in_order = [(1, Some("queued".to_owned())), (2, Some("running".to_owned())), (3, None)];

    let tasks = create_tasks(client, 3);
    let in_cte = "WITH moved AS (UPDATE workflow.task_instances SET state = 'running' WHERE id = $1 RETURNING id)
                  SELECT public.remove(id) FROM moved";
    client.query(in_cte, &[&tasks[0]]).unwrap();
    assert_eq!(versions(client, tasks[0]), in_order);

    let in_trigger = "CREATE TRIGGER remove_moved AFTER UPDATE ON workflow.task_instances
                      FOR EACH ROW EXECUTE FUNCTION public.remove_new()";
    client.batch_execute(in_trigger).unwrap();
    let moved =
        "SELECT workflow.transition_task_instance($1, 'queued', 'running', '{\"worker\": 7}', request_id => 'r')";
    client.query(moved, &[&tasks[1]]).unwrap();
    assert_eq!(versions(client, tasks[1]), in_order);
    let sql = "SELECT metadata->>'worker', request_id FROM workflow.state_history WHERE entity_id = $1 ORDER BY id";
    let calls: Vec<(Option<String>, Option<String>)> =
        client.query(sql, &[&tasks[1]]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(calls, [(None, None), (Some("7".to_owned()), Some("r".to_owned())), (None, None)]);

    let in_creation = "DROP TRIGGER remove_moved ON workflow.task_instances;
                       CREATE TRIGGER remove_created AFTER INSERT ON workflow.task_instances
                       FOR EACH ROW EXECUTE FUNCTION public.remove_new()";
    client.batch_execute(in_creation).unwrap();
    let task = create_task(client);
    assert_eq!(versions(client, task), [(1, Some("queued".to_owned())), (2, None)]);
}
