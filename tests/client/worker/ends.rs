//! How tasks end.

use super::*;

/// A handler with a way to end for each name of a task.
async fn end(task: ClaimedTask, _: Cancellation) -> Result<Value, Failure> {
    match task.task_id.as_str() {
        "object" => Ok(json!({"rows": 7})),
        "number" => Ok(json!(7)),
        "null" => Ok(Value::Null),
        "long" => Ok(json!({"text": "x".repeat(3_000_000)})),
        "zero" => Ok(json!({"text": "a\0b"})),
        "error" => Ok(json!({"file": std::fs::read_to_string("/nonexistent")?})),
        "zero error" => Err(Failure::new("a\0b")),
        "panic" => panic!("it went wrong: {}", task.task_id),
        "hopeless" => Err(Failure::new("no such table").without_retry().with_metadata("table", "t")),
        "later" => Err(Failure::new("busy").retry_after(Duration::from_secs(100))),
        "again" if task.try_number == 1 => Err(Failure::new("not yet").retry_after(Duration::ZERO)),
        _ => Ok(json!({})),
    }
}

#[test]
fn results_errors_and_panics_end_tasks() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ends = [
            ("object", State::Success, None),
            ("number", State::Success, None),
            ("null", State::Success, None),
            ("long", State::Retrying, Some("the database rejects the result")),
            ("zero", State::Retrying, Some("the database rejects the result")),
            ("error", State::Retrying, Some("No such file or directory")),
            ("zero error", State::Retrying, Some("a\u{FFFD}b")),
            ("panic", State::Retrying, Some("the handler panicked: it went wrong: panic")),
            ("hopeless", State::Failed, Some("no such table")),
            ("later", State::Retrying, Some("busy")),
            ("again", State::Success, None),
        ];
        let ids = enqueue(&client, &ends.map(|(name, ..)| name), 2).await;
        // All at once, so that one batch has those that the database rejects, too.
        let worker = Running::start(&db, Worker { concurrency: 20, ..Worker::default() }, end);
        for (id, (name, state, error)) in ids.iter().zip(ends) {
            let task = wait_for_state(&client, *id, state).await;
            let shown = task.error.unwrap_or_default();
            assert!(error.map_or(shown.is_empty(), |error| shown.contains(error)), "{name}: {shown}");
        }
        worker.stop().await;
        let metadata = "SELECT metadata FROM workflow.state_history WHERE entity_id = $1 AND version = 3";
        let expected =
            [json!({"rows": 7}), json!({"result": 7}), json!({}), json!({"error": "no such table", "table": "t"})];
        for (id, expected) in [ids[0], ids[1], ids[2], ids[8]].iter().zip(expected) {
            assert_eq!(client.query_one(metadata, &[id]).await.unwrap().get::<_, Value>(0), expected);
        }
        let waits = "SELECT task_id, extract(epoch FROM not_before - updated_at)::float8 FROM workflow.task_instances
                     WHERE task_id IN ('panic', 'later')";
        for row in client.query(waits, &[]).await.unwrap() {
            let (name, wait): (&str, f64) = (row.get(0), row.get(1));
            let expected = if name == "panic" { 1.4..2.6 } else { 99.0..101.0 };
            assert!(expected.contains(&wait), "{name}: {wait}");
        }
    });
}

/// Ends that come while others are reported go together.
#[test]
fn ends_are_reported_in_batches() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        enqueue_many(&client, 100).await;
        let all = Arc::new(tokio::sync::Barrier::new(100));
        let worker = Running::start(&db, Worker { concurrency: 100, ..Worker::default() }, move |_, _| {
            let all = all.clone();
            async move {
                all.wait().await;
                Ok(())
            }
        });
        wait_for("all tasks", async || count(&client, "state = 'success'").await == 100).await;
        worker.stop().await;
        let sql = "SELECT count(DISTINCT xmin::text) FROM workflow.task_instances";
        let transactions: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        assert!(transactions <= 30, "{transactions}");
    });
}

/// What a handler writes in the transaction that ends its claim is written once, and the worker's own report agrees.
#[test]
fn handler_can_end_its_claim_in_a_transaction() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        client.batch_execute("CREATE TABLE results (task uuid)").await.unwrap();
        let ids = enqueue(&client, &["a"], 1).await;
        let database = server(db.url());
        let worker = Running::start(&db, Worker::default(), move |task, _| {
            let database = database.clone();
            async move {
                let mut client = database.connect().await?;
                let transaction = client.transaction().await?;
                transaction.execute("INSERT INTO results VALUES ($1)", &[&task.id]).await?;
                Claims::new(&transaction).complete(&task.claim, &json!({"by": "handler"})).await?;
                transaction.commit().await?;
                Ok(json!({"by": "worker"}))
            }
        });
        wait_for_state(&client, ids[0], State::Success).await;
        worker.stop().await;
        assert_eq!(client.query("SELECT FROM results", &[]).await.unwrap().len(), 1);
        assert_eq!(get(&client, ids[0]).await.version, 3);
    });
}

/// A result that cannot be written as JSON without a panic.
struct Unwritable;

impl serde::Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("no JSON")
    }
}

/// A panic that cannot be dropped without another one.
struct Undroppable;

impl Drop for Undroppable {
    fn drop(&mut self) {
        panic!("again")
    }
}

#[test]
fn panics_after_the_handler_fail_the_task() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["result", "panic"], 1).await;
        let worker = Running::start(&db, Worker::default(), |task, _| async move {
            if task.task_id == "panic" {
                std::panic::panic_any(Undroppable);
            }
            Ok(Unwritable)
        });
        for (id, error) in ids.iter().zip(["the handler panicked: no JSON", "the handler panicked: no message"]) {
            assert_eq!(wait_for_state(&client, *id, State::Failed).await.error.as_deref(), Some(error));
        }
        worker.stop().await;
    });
}
