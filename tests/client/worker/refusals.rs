//! Ends that the database refuses, and ends that wait for a lock: they hold no others.

use super::*;

/// Creates a trigger that refuses this change of the task `poison`.
async fn refuse(client: &Client, condition: &str) {
    let sql = format!(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'poisoned'; END $$;
         CREATE TRIGGER refuse AFTER UPDATE ON workflow.task_instances FOR EACH ROW
             WHEN (NEW.task_id = 'poison' AND {condition}) EXECUTE FUNCTION public.refuse()"
    );
    client.batch_execute(&sql).await.expect("a trigger");
}

async fn succeed(_: ClaimedTask, _: Cancellation) -> Result<(), Failure> {
    Ok(())
}

#[test]
fn refused_success_is_a_failure_of_its_task_alone() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        refuse(&client, "NEW.state = 'success'").await;
        let ids = enqueue(&client, &["a", "poison", "b"], 1).await;
        let worker = Running::start(&db, Worker::default(), succeed);
        let task = wait_for_state(&client, ids[1], State::Failed).await;
        assert_eq!(task.error.as_deref(), Some("the database rejects the result: poisoned (P0001)"));
        for id in [ids[0], ids[2]] {
            wait_for_state(&client, id, State::Success).await;
        }
        worker.stop().await;
    });
}

/// Errors of a trigger have the classes of those about the options of a worker, too. This one comes with the commit.
#[test]
fn error_of_a_trigger_at_a_claim_ends_no_worker() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        client
            .batch_execute(
                "CREATE SEQUENCE public.refusals;
                 CREATE FUNCTION public.divide() RETURNS trigger LANGUAGE plpgsql
                     AS $$ BEGIN PERFORM nextval('public.refusals'); RETURN 1 / 0; END $$;
                 CREATE CONSTRAINT TRIGGER divide AFTER UPDATE ON workflow.task_instances
                     DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.state = 'running') EXECUTE FUNCTION public.divide()",
            )
            .await
            .unwrap();
        let ids = enqueue(&client, &["a"], 1).await;
        let worker = Running::start(&db, Worker::default(), succeed);
        let refused = "SELECT last_value > 2 FROM public.refusals";
        wait_for("refusals", async || client.query_one(refused, &[]).await.unwrap().get(0)).await;
        client.batch_execute("DROP TRIGGER divide ON workflow.task_instances").await.unwrap();
        wait_for_state(&client, ids[0], State::Success).await;
        worker.stop().await;
    });
}

/// Neither its success nor its failure is accepted: after a lease its place is free again.
#[test]
fn end_that_is_always_refused_holds_its_place_for_a_lease() {
    let db = Db::new();
    let log = log_during(async {
        let client = server(db.url()).connect().await.unwrap();
        refuse(&client, "OLD.state = 'running'").await;
        let ids = enqueue(&client, &["poison"], 1).await;
        let worker = Running::start(&db, Worker { concurrency: 1, ..short() }, succeed);
        wait_for_state(&client, ids[0], State::Running).await;
        let later = enqueue(&client, &["later"], 1).await;
        wait_for_state(&client, later[0], State::Success).await;
        client.batch_execute("DROP TRIGGER refuse ON workflow.task_instances").await.unwrap();
        worker.stop().await;
        assert_eq!(get(&client, ids[0]).await.try_number, 1);
    });
    assert_eq!(log.text().matches("cannot end claim").count(), 1, "{}", log.text());
}

#[test]
fn locked_task_delays_no_other_end() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["locked", "a", "b"], 1).await;
        let end = CancellationToken::new();
        let worker = Running::start(&db, Worker { concurrency: 3, ..short() }, {
            let end = end.clone();
            move |_, _| {
                let end = end.clone();
                async move {
                    end.cancelled().await;
                    Ok(())
                }
            }
        });
        for id in &ids {
            wait_for_state(&client, *id, State::Running).await;
        }
        let lock = server(db.url()).connect().await.unwrap();
        lock.batch_execute("BEGIN").await.unwrap();
        lock.query("SELECT FROM workflow.task_instances WHERE id = $1 FOR UPDATE", &[&ids[0]]).await.unwrap();
        end.cancel();
        let later = enqueue(&client, &["c", "d", "e", "f"], 1).await;
        for id in [&ids[1..], &later].concat() {
            wait_for_state(&client, id, State::Success).await;
        }
        assert_eq!(get(&client, ids[0]).await.state, State::Running);
        lock.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(wait_for_state(&client, ids[0], State::Success).await.version, 3);
        worker.stop().await;
    });
}

/// Nothing can be asked for longer than the worker waits for an answer: what it no longer waits for must not wait on.
#[test]
fn unanswered_statements_leave_no_sessions() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["a"], 1).await;
        let worker = Running::start(&db, Worker { concurrency: 2, ..short() }, |_, _| async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(())
        });
        wait_for_state(&client, ids[0], State::Running).await;
        client.batch_execute("BEGIN; LOCK workflow.task_instances").await.unwrap();
        let sessions = "SELECT count(*) FROM pg_stat_activity
                        WHERE application_name = 'worker' AND datname = current_database()";
        let began = Instant::now();
        let mut most = 0;
        while began.elapsed() < Duration::from_secs(25) {
            most = most.max(client.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        client.batch_execute("COMMIT").await.unwrap();
        // One that begins can meet one that has been cancelled and ends.
        assert!(most <= 4, "{most}");
        wait_for_state(&client, ids[0], State::Success).await;
        worker.stop().await;
    });
}
