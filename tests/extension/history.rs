//! The history, and verify(), which must detect damage to it.

use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::Value;

#[test]
fn history_is_newest_first_and_outlives_its_entity() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", State::Retrying);
    let read = |client: &mut postgres::Client, max: i32| -> Vec<(i64, String)> {
        let sql = "SELECT version, new_state FROM workflow.history('task_instance', $1, $2)";
        client.query(sql, &[&task, &max]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let all = [(3, "retrying".to_owned()), (2, "running".to_owned()), (1, "queued".to_owned())];
    assert_eq!(read(client, 100), all);
    assert_eq!(read(client, 2), all[..2]);
    client.batch_execute("DELETE FROM workflow.dags").unwrap();
    assert_eq!(client.query("SELECT FROM workflow.task_instances", &[]).unwrap().len(), 0);
    assert_eq!(read(client, 100), all);
    // No run has the id of this task.
    let sql = "SELECT FROM workflow.history('dag_run', $1)";
    assert_eq!(client.query(sql, &[&task]).unwrap().len(), 0);
}

#[test]
fn state_at_returns_state_at_any_time() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", State::Success);
    let sql = "SELECT changed_at FROM workflow.history('task_instance', $1) ORDER BY version";
    let times: Vec<DateTime<Utc>> = client.query(sql, &[&task]).unwrap().iter().map(|row| row.get(0)).collect();
    let mut state_at = |at: DateTime<Utc>| -> Option<String> {
        client.query_one("SELECT workflow.state_at('task_instance', $1, $2)", &[&task, &at]).unwrap().get(0)
    };
    let before = |time: DateTime<Utc>| time - chrono::TimeDelta::microseconds(1);
    assert_eq!(state_at(before(times[0])), None);
    assert_eq!(state_at(times[0]).as_deref(), Some("queued"));
    assert_eq!(state_at(before(times[1])).as_deref(), Some("queued"));
    assert_eq!(state_at(times[1]).as_deref(), Some("running"));
    assert_eq!(state_at(times[2]).as_deref(), Some("success"));
    assert_eq!(state_at(Utc::now()).as_deref(), Some("success"));
}

#[test]
fn event_id_at_finds_first_event_since_a_time() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    let id_at = |client: &mut postgres::Client, at: DateTime<Utc>| -> i64 {
        client.query_one("SELECT workflow.event_id_at($1)", &[&at]).unwrap().get(0)
    };
    assert_eq!(id_at(client, Utc::now()), 1, "without events, the first id");
    for _ in 0..40 {
        create_tasks(client, 100);
    }
    // Gaps of all sizes, also at the beginning, and several events with the same time.
    client
        .batch_execute(
            "DELETE FROM workflow.state_history WHERE id < 50 OR id % 7 = 0 OR id BETWEEN 1000 AND 2500;
             UPDATE workflow.state_history SET changed_at = date_trunc('milliseconds', changed_at)",
        )
        .unwrap();
    let times: Vec<DateTime<Utc>> = client
        .query("SELECT DISTINCT changed_at FROM workflow.state_history ORDER BY changed_at", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(times.len() > 20, "{}", times.len());
    let (first, last) = (times[0], times[times.len() - 1]);
    let around = |time: DateTime<Utc>| [-1, 0, 1].map(|step| time + chrono::TimeDelta::microseconds(step));
    for at in times.iter().copied().flat_map(around) {
        let id = id_at(client, at);
        let sql = "SELECT count(*) FILTER (WHERE (id >= $1) <> (changed_at >= $2)) FROM workflow.state_history";
        assert_eq!(client.query_one(sql, &[&id, &at]).unwrap().get::<_, i64>(0), 0, "{at}: {id}");
    }
    let highest: i64 = client.query_one("SELECT max(id) FROM workflow.state_history", &[]).unwrap().get(0);
    let hour = chrono::TimeDelta::hours(1);
    assert!(id_at(client, first - hour) <= 50);
    assert_eq!(id_at(client, last + hour), highest + 1);
    let row = client.query_one("SELECT workflow.event_id_at('infinity'), workflow.event_id_at(NULL)", &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, Option<i64>>(1)), (highest + 1, None));
}

#[test]
fn event_ids_bound_each_time_whatever_the_clock_did() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    create_tasks(client, 500);
    let scatter = [
        // A statement that waited, a clock ahead, a clock set back; then any order at all.
        "id * interval '1 s' - CASE WHEN id BETWEEN 100 AND 180 THEN interval '70 s' ELSE '0' END",
        "id * interval '1 s' + CASE WHEN id BETWEEN 100 AND 180 THEN interval '1 hour' ELSE '0' END",
        "id * interval '1 s' - CASE WHEN id > 300 THEN interval '1 hour' ELSE '0' END",
        "random() * interval '1 hour'",
    ];
    for times in scatter {
        client
            .batch_execute(&format!(
                "SET session_replication_role = replica;
                 UPDATE workflow.state_history SET changed_at = '2026-01-01Z'::timestamptz + {times}"
            ))
            .unwrap();
        // Some blocks have a summary in the index, the last ones have none.
        client.batch_execute("VACUUM workflow.state_history").unwrap();
        let sql = "SELECT count(*) FILTER (WHERE workflow.event_id_at(t.at) <> coalesce(e.first, e.highest + 1)
                           OR workflow.event_id_before(t.at) <> coalesce(e.last, e.lowest - 1)), count(*)
                   FROM (SELECT changed_at + step * interval '1 us' AS at
                         FROM workflow.state_history, generate_series(-1, 1) AS step WHERE id % 5 = 0) AS t
                   CROSS JOIN LATERAL (
                       SELECT min(id) FILTER (WHERE changed_at >= t.at) AS first, max(id) FILTER (WHERE changed_at < t.at) AS last,
                           min(id) AS lowest, max(id) AS highest FROM workflow.state_history) AS e";
        let row = client.query_one(sql, &[]).unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 300), "{times}");
    }
}

#[test]
fn verify_reports_every_kind_of_disagreement() {
    let cases = [
        ("UPDATE workflow.task_instances SET state = 'success' WHERE id = $1", "row and history disagree"),
        ("UPDATE workflow.task_instances SET version = 9 WHERE id = $1", "row and history disagree"),
        ("UPDATE workflow.task_instances SET try_number = 5 WHERE id = $1", "row and history disagree"),
        ("UPDATE workflow.task_instances SET worker = 'w' WHERE id = $1", "claim of a task that does not run"),
        ("UPDATE workflow.task_instances SET queue_id = 1, state = 'queued' WHERE id = $1", "no claim finds it"),
        ("DELETE FROM workflow.state_history WHERE entity_id = $1", "no history"),
        ("DELETE FROM workflow.state_history WHERE entity_id = $1 AND version = 2", "version missing"),
        ("DELETE FROM workflow.state_history WHERE entity_id = $1 AND version = 1", "version missing"),
        (
            "UPDATE workflow.state_history SET old_state = 'failed' WHERE entity_id = $1 AND version = 3",
            "transition from another state",
        ),
        (
            "UPDATE workflow.state_history SET new_state = 'success' WHERE entity_id = $1 AND version = 1",
            "transition not allowed",
        ),
        (
            "WITH swapped AS (DELETE FROM workflow.state_history WHERE entity_id = $1 AND version > 1 RETURNING *),
                 ids AS (SELECT sum(id) AS total FROM swapped)
             INSERT INTO workflow.state_history (id, entity_type, entity_id, old_state, new_state, version, dag_id, dag_run_id)
             SELECT total - id, entity_type, entity_id, old_state, new_state, version, dag_id, dag_run_id FROM swapped, ids",
            "events out of order",
        ),
        (
            "UPDATE workflow.state_history SET new_state = NULL WHERE entity_id = $1 AND version = 3",
            "row and history disagree",
        ),
        (
            "UPDATE workflow.state_history SET new_state = NULL WHERE entity_id = $1 AND version = 2",
            "transition from another state",
        ),
        (
            "UPDATE workflow.state_history SET new_state = NULL, old_state = NULL WHERE entity_id = $1 AND version = 3",
            "transition not allowed",
        ),
        (
            "UPDATE workflow.state_history SET old_state = NULL, new_state = 'queued' WHERE entity_id = $1 AND version = 3",
            "transition not allowed",
        ),
        (
            "UPDATE workflow.state_history SET changed_at = '2000-01-01' WHERE entity_id = $1 AND version = 3",
            "clock went back",
        ),
    ];
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", State::Retrying);
    assert_eq!(db.problems(), [""; 0]);
    for (damage, problem) in cases {
        let mut transaction = client.transaction().unwrap();
        transaction.batch_execute("SET LOCAL session_replication_role = replica").unwrap();
        assert!(transaction.execute(damage, &[&task]).unwrap() > 0);
        let sql = "SELECT problem, entity_id IS NOT DISTINCT FROM $1 FROM workflow.verify()";
        let found: Vec<(String, bool)> =
            transaction.query(sql, &[&task]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
        assert!(found.contains(&(problem.to_owned(), true)), "{damage}: {found:?}");
        transaction.rollback().unwrap();
    }
}

#[test]
fn verify_compares_stored_counts() {
    let db = Db::new().without_verification();
    let client = &mut db.connect();
    create_task(client);
    client.batch_execute("SELECT workflow.fold_state_counts()").unwrap();
    assert_eq!(db.problems(), [""; 0]);
    let unseen = "SET session_replication_role = replica; DELETE FROM workflow.task_instances";
    client.batch_execute(unseen).unwrap();
    let found = [r#"counts disagree: {"rows":0,"state":"queued","state_counts":1}"#];
    assert_eq!(db.problems(), found);
    client.batch_execute("SELECT workflow.forget_state_counts()").unwrap();
    assert_eq!(db.problems(), [""; 0]);
}

#[test]
fn every_object_has_a_comment() {
    let db = Db::new();
    let client = &mut db.connect();
    let sql = "SELECT pg_describe_object(d.classid, d.objid, 0)
               FROM pg_depend AS d
               JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
               WHERE e.extname = 'pg_workflow' AND d.deptype = 'e' AND d.classid <> 'pg_type'::regclass
                 AND obj_description(d.objid, d.classid::regclass::name) IS NULL
               UNION ALL
               SELECT format('column %s.%s', c.oid::regclass, a.attname)
               FROM pg_class AS c
               JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind IN ('r', 'v')
                 AND col_description(c.oid, a.attnum) IS NULL";
    let bare: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(bare, [""; 0], "objects without a COMMENT");
}

#[test]
fn notification_equals_feed_event() {
    use fallible_iterator::FallibleIterator;
    let db = Db::new();
    let client = &mut db.connect();
    let listener = &mut db.connect();
    listener.batch_execute("LISTEN workflow_events").unwrap();
    client.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();
    create_in_state(client, "task_instance", State::Running);
    let sql = "SELECT to_jsonb(e) - 'changed_at' FROM workflow.read_events('reader') AS e";
    let read: Vec<Value> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(read.len(), 3);
    let mut notifications = listener.notifications();
    for event in read {
        let notification =
            notifications.timeout_iter(std::time::Duration::from_secs(10)).next().unwrap().expect("a notification");
        let mut told: Value = serde_json::from_str(notification.payload()).unwrap();
        let changed_at = told.as_object_mut().unwrap().remove("changed_at").unwrap();
        assert!(changed_at.as_str().unwrap().parse::<DateTime<Utc>>().is_ok(), "{changed_at}");
        assert_eq!(told, event);
    }
}
