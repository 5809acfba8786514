//! transition(): optimistic locking, retries, metadata, transactions.

use fallible_iterator::FallibleIterator;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use std::time::Duration;

/// Waits for this many notifications, and returns their payloads.
fn notifications(client: &mut Client, at_least: usize) -> Vec<Value> {
    let mut notifications = client.notifications();
    let mut payloads = Vec::new();
    let mut waiting = notifications.timeout_iter(Duration::from_secs(10));
    while payloads.len() < at_least {
        let notification = waiting.next().unwrap().expect("a notification within 10 s");
        payloads.push(serde_json::from_str(notification.payload()).expect("JSON"));
    }
    payloads
}

#[test]
fn transition_returns_new_version_and_is_recorded() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let metadata = json!({"worker": "w-1", "nested": {"a": [1, 2]}});
    let start = Transition::of(task).from(State::Queued).to(State::Running).metadata(metadata.clone());
    assert_eq!(start.run(client).unwrap(), 2);
    let row = client.query_one("SELECT * FROM workflow.history('task_instance', $1) LIMIT 1", &[&task]).unwrap();
    assert_eq!(row.get::<_, Value>("metadata"), metadata);
    assert_eq!(row.get::<_, Option<String>>("old_state").as_deref(), Some("queued"));
    assert_eq!(row.get::<_, String>("new_state"), "running");
    assert_eq!(row.get::<_, String>("actor"), "postgres");
    assert_eq!(row.get::<_, String>("task_id"), "task_0");
}

#[test]
fn conflict_reports_current_state_and_version() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_in_state(client, "task_instance", State::Running);
    let failed = failure(Transition::of(task).from(State::Queued).to(State::Skipped).run(client));
    assert_eq!(failed.sqlstate, "40001");
    assert_eq!(failed.detail["current_state"], "running");
    assert_eq!(failed.detail["current_version"], 2);
    assert!(failed.hint.contains("decide again"), "{}", failed.hint);

    // The state is as expected but the version is not: the task left that state and returned to it.
    let fail = Transition::of(task).from(State::Running).to(State::Failed);
    let failed = failure(fail.clone().version(1).run(client));
    assert_eq!(failed.sqlstate, "40001");
    assert_eq!(failed.detail["expected_version"], 1);
    assert_eq!(failed.detail["current_version"], 2);
    assert_eq!(fail.version(2).run(client).unwrap(), 3);
}

#[test]
fn repeated_request_id_returns_same_version() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let mut request =
        |key: &'static str, from: State, to: State| Transition::of(task).from(from).to(to).request(key).run(client);
    assert_eq!(request("r1", State::Queued, State::Running).unwrap(), 2);
    assert_eq!(request("r1", State::Queued, State::Running).unwrap(), 2);
    assert_eq!(request("r2", State::Running, State::Failed).unwrap(), 3);
    assert_eq!(request("r3", State::Failed, State::Running).unwrap(), 4);
    // The task is running again, so r2 would be possible, but r2 has been applied.
    assert_eq!(request("r2", State::Running, State::Failed).unwrap(), 3);
    // Another transition with a used key is a mistake, not a retry.
    assert_eq!(failure(request("r2", State::Running, State::Success)).sqlstate, "22023");
    assert_eq!(failure(request("", State::Running, State::Success)).sqlstate, "22023");
    // Another key is no retry.
    assert_eq!(failure(request("r9", State::Queued, State::Running)).sqlstate, "40001");
    assert_eq!(state_of(client, "task_instance", task), ("running".into(), 4));
    assert_eq!(history_len(client, task), 4);
}

#[test]
fn large_metadata_is_stored_but_omitted_from_notification() {
    let db = Db::new();
    let client = &mut db.connect();
    let listener = &mut db.connect();
    let task = create_task(client);
    listener.batch_execute("LISTEN workflow_events").unwrap();
    // Incompressible and compressible text.
    let noise: String = (0..32_000).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    let compressible = "x".repeat(1_000_000);
    for (from, to, text) in [(State::Queued, State::Running, noise), (State::Running, State::Failed, compressible)] {
        assert!(text.len() >= 1_000_000);
        let metadata = json!({"log": text});
        Transition::of(task).from(from).to(to).metadata(metadata.clone()).run(client).unwrap();
        let row = client.query_one("SELECT * FROM workflow.history('task_instance', $1) LIMIT 1", &[&task]).unwrap();
        assert_eq!(row.get::<_, Value>("metadata"), metadata);
        let event = &notifications(listener, 1)[0];
        assert_eq!((&event["metadata_omitted"], &event["new_state"]), (&json!(true), &json!(to.as_str())));
        assert_eq!(event.get("metadata"), None);
    }
}

#[test]
fn payload_size_never_fails_a_transition() {
    let db = Db::new();
    let client = &mut db.connect();
    let listener = &mut db.connect();
    listener.batch_execute("LISTEN workflow_events").unwrap();
    let (_, run) = create_run(client);
    // The longest task name, of the characters with the longest JSON escapes.
    let name = ["\u{1}".repeat(499).as_str(), "x"].concat();
    let task: uuid::Uuid = client
        .query_one("SELECT id FROM workflow.create_task_instances($1, ARRAY[$2])", &[&run, &name])
        .unwrap()
        .get(0);
    assert_eq!(notifications(listener, 2)[1]["task_id"], json!(name));
    // Around the limit of a payload, byte by byte.
    start_task(client, task);
    let mut omitted = 0;
    for size in 4_640..4_700 {
        let (from, to) =
            if size % 2 == 0 { (State::Running, State::Retrying) } else { (State::Retrying, State::Running) };
        Transition::of(task).from(from).to(to).metadata(json!({"x": "y".repeat(size)})).run(client).unwrap();
    }
    for event in &notifications(listener, 61)[1..] {
        omitted += usize::from(event["metadata_omitted"] == json!(true));
        assert_eq!(event.get("metadata").is_some(), event.get("metadata_omitted").is_none());
    }
    assert!((1..60).contains(&omitted), "the sizes must lie on both sides of the limit: {omitted}");
}

#[test]
fn rollback_leaves_no_history_and_no_event() {
    let db = Db::new();
    let client = &mut db.connect();
    let listener = &mut db.connect();
    let tasks = create_tasks(client, 2);
    listener.batch_execute("LISTEN workflow_events").unwrap();
    client.batch_execute("SELECT workflow.create_consumer('reader')").unwrap();

    let mut transaction = client.transaction().unwrap();
    start_task(&mut transaction, tasks[0]);
    transaction.rollback().unwrap();

    // A savepoint that is rolled back, in a transaction that commits.
    let mut transaction = client.transaction().unwrap();
    start_task(&mut transaction, tasks[1]);
    let mut savepoint = transaction.savepoint("s").unwrap();
    start_task(&mut savepoint, tasks[0]);
    savepoint.rollback().unwrap();
    transaction.commit().unwrap();

    assert_eq!(state_of(client, "task_instance", tasks[0]), ("queued".into(), 1));
    assert_eq!(history_len(client, tasks[0]), 1);
    assert_eq!(state_of(client, "task_instance", tasks[1]), ("running".into(), 2));
    assert_eq!(notifications(listener, 1)[0]["entity_id"], tasks[1].to_string());
    let read = client.query("SELECT entity_id FROM workflow.read_events('reader')", &[]).unwrap();
    assert_eq!(read.iter().map(|row| row.get(0)).collect::<Vec<uuid::Uuid>>(), [tasks[1]]);
}

#[test]
fn failed_transition_leaks_nothing_into_the_next() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let wrong = Transition::of(task).from(State::Retrying).to(State::Running);
    failure(wrong.metadata(json!({"from": "failed call"})).request("r1").run(client));
    client.execute("UPDATE workflow.task_instances SET state = 'running' WHERE id = $1", &[&task]).unwrap();
    let row = client.query_one("SELECT * FROM workflow.history('task_instance', $1) LIMIT 1", &[&task]).unwrap();
    assert_eq!((row.get::<_, Value>("metadata"), row.get::<_, Option<String>>("request_id")), (json!({}), None));
}

#[test]
fn extension_can_be_recreated_in_one_session() {
    let db = Db::new();
    let client = &mut db.connect();
    for _ in 0..2 {
        let task = create_in_state(client, "task_instance", State::Running);
        client
            .query_one(
                "SELECT count(*) FROM workflow.transition_many('task_instance', ARRAY[$1::uuid], NULL, 'failed')",
                &[&task],
            )
            .unwrap();
        assert_eq!(state_of(client, "task_instance", task), ("failed".into(), 3));
        client.batch_execute("DROP EXTENSION pg_workflow CASCADE; CREATE EXTENSION pg_workflow").unwrap();
    }
}
