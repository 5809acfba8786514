//! Stopping a worker.

use super::*;
use pg_workflow_client::worker::CancelReason;

#[test]
fn worker_that_stops_waits_for_its_handlers_and_claims_no_more() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["a"], 1).await;
        let end = CancellationToken::new();
        let worker = Running::start(&db, Worker::default(), {
            let end = end.clone();
            move |_, _| {
                let end = end.clone();
                async move {
                    end.cancelled().await;
                    Ok(())
                }
            }
        });
        wait_for_state(&client, ids[0], State::Running).await;
        let waiting = "SELECT FROM pg_stat_activity WHERE application_name = 'worker' AND datname = current_database()
                       AND state = 'active' AND query LIKE 'CALL workflow.wait_for_tasks%'";
        wait_for("it waits for more", async || !client.query(waiting, &[]).await.unwrap().is_empty()).await;
        worker.shutdown.cancel();
        let later = enqueue(&client, &["b"], 1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!worker.task.is_finished());
        end.cancel();
        worker.stop().await;
        assert_eq!(get(&client, ids[0]).await.state, State::Success);
        assert_eq!(get(&client, later[0]).await.state, State::Queued);
        let sessions =
            "SELECT FROM pg_stat_activity WHERE application_name = 'worker' AND datname = current_database()";
        wait_for("no session remains", async || client.query(sessions, &[]).await.unwrap().is_empty()).await;
    });
}

/// After the limit handlers are told to stop. Those that do not succeed then give their tasks back, uncounted.
#[test]
fn worker_that_stops_releases_tasks_after_its_limit() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let names = ["deaf", "fails", "succeeds"];
        let ids = enqueue(&client, &names, 1).await;
        let options = Worker { shutdown_limit: Duration::from_millis(100), ..Worker::default() };
        // A task can be running in the database before its handler begins, and a worker that stops then releases it.
        let calls = Calls::default();
        let begun = calls.clone();
        let worker = Running::start(&db, options, move |task, cancellation| {
            begun.note(&task);
            async move {
                if task.task_id == "deaf" {
                    std::future::pending::<()>().await;
                }
                let reason = cancellation.cancelled().await;
                assert_eq!(reason, CancelReason::Shutdown);
                if task.task_id == "fails" { Err(Failure::new("interrupted")) } else { Ok(()) }
            }
        });
        wait_for("the handlers", async || calls.len() == 3).await;
        let began = Instant::now();
        worker.stop().await;
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        for (id, name) in ids.iter().zip(names) {
            let state = if name == "succeeds" { State::Success } else { State::Retrying };
            assert_eq!(get(&client, *id).await.state, state, "{name}");
        }
        assert_eq!(count(&client, "uncounted_tries = 1 AND state = 'retrying'").await, 2);

        let worker = Running::start(&db, Worker::default(), |task, _| async move { Ok(task.try_number) });
        for id in &ids[..2] {
            assert_eq!(wait_for_state(&client, *id, State::Success).await.try_number, 2);
        }
        worker.stop().await;
    });
}

/// A handler that blocks its thread cannot be dropped. The others give their tasks back all the same.
#[test]
fn worker_that_stops_releases_tasks_beside_a_blocked_handler() {
    let db = Db::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["blocked", "deaf"], 2).await;
        let (unblock, blocked) = std::sync::mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let options = Worker { shutdown_limit: Duration::from_millis(100), ..Worker::default() };
        let worker = Running::start(&db, options, move |task, _| {
            let blocked = blocked.clone();
            async move {
                if task.task_id == "deaf" {
                    std::future::pending::<()>().await;
                }
                let _ = blocked.lock().unwrap().recv();
                Ok(())
            }
        });
        for id in &ids {
            wait_for_state(&client, *id, State::Running).await;
        }
        worker.stop().await;
        let task = get(&client, ids[1]).await;
        assert_eq!((task.state, get(&client, ids[0]).await.state), (State::Retrying, State::Running));
        assert_eq!(count(&client, "uncounted_tries = 1").await, 1);
        drop(unblock);
    });
}
