//! Leases: renewed while a handler runs; a handler learns that its claim is lost, or that it should stop.

use super::*;
use pg_workflow_client::worker::CancelReason;

/// Handlers note their cancellation, and then wait for a second token before they end.
#[derive(Clone, Default)]
struct Told {
    reason: Arc<Mutex<Option<CancelReason>>>,
    end: CancellationToken,
}

impl Told {
    async fn wait(self, cancellation: Cancellation) -> CancelReason {
        let reason = cancellation.cancelled().await;
        *self.reason.lock().unwrap() = Some(reason);
        self.end.cancelled().await;
        reason
    }

    fn reason(&self) -> Option<CancelReason> {
        *self.reason.lock().unwrap()
    }
}

#[test]
fn handler_of_a_lost_claim_is_told_and_its_result_does_not_count() {
    let db = Db::new();
    let log = log_during(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["a"], 1).await;
        let told = Told::default();
        let worker = Running::start(&db, short(), {
            let told = told.clone();
            move |_, cancellation| {
                let told = told.clone();
                async move { Ok(told.wait(cancellation).await.to_string()) }
            }
        });
        wait_for_state(&client, ids[0], State::Running).await;
        TaskInstances::new(&client).transition(ids[0], State::Running, State::Failed).await.unwrap();
        wait_for("the handler is told", async || told.reason() == Some(CancelReason::LeaseLost)).await;
        told.end.cancel();
        worker.stop().await;
        let task = get(&client, ids[0]).await;
        assert_eq!((task.state, task.version), (State::Failed, 3));
    });
    assert!(log.has("is lost: its success does not count, the task is failed"), "{}", log.text());
    assert!(log.has("to stop: the claim is lost"));
}

#[test]
fn request_to_cancel_reaches_the_handler_and_no_retry_follows() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["a"], 3).await;
        let told = Told::default();
        told.end.cancel();
        let worker = Running::start(&db, short(), {
            let told = told.clone();
            move |_, cancellation| {
                let told = told.clone();
                async move { Err::<(), _>(Failure::new(told.wait(cancellation).await.to_string())) }
            }
        });
        wait_for_state(&client, ids[0], State::Running).await;
        Claims::new(&client).request_cancel(ids[0]).await.unwrap();
        let task = wait_for_state(&client, ids[0], State::Failed).await;
        assert_eq!((task.error.as_deref(), task.try_number), (Some("cancelled"), 1));
        assert_eq!(told.reason(), Some(CancelReason::CancelRequested));
        worker.stop().await;
    });
}

/// The handler blocks the only thread of the runtime for three leases, and others look for claims that have run out.
#[test]
fn heartbeats_keep_the_claim_of_a_handler_that_blocks() {
    let db = Db::new();
    let done = CancellationToken::new();
    let (mut reaper, stop) = (db.connect(), done.clone());
    let reaping = std::thread::spawn(move || {
        let mut reaped = 0;
        while !stop.is_cancelled() {
            reaped += reaper.query("SELECT FROM workflow.reap_claims()", &[]).unwrap().len();
            std::thread::sleep(Duration::from_millis(50));
        }
        reaped
    });
    let guard = done.drop_guard();
    log_during(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["a"], 1).await;
        let worker = Running::start(&db, short(), |_, _| async {
            std::thread::sleep(Duration::from_secs(4));
            Ok(())
        });
        let task = wait_for_state(&client, ids[0], State::Success).await;
        assert_eq!((task.version, task.try_number), (3, 1));
        worker.stop().await;
    });
    drop(guard);
    assert_eq!(reaping.join().unwrap(), 0);
}

/// A busy worker ends the claims of others that have run out, and gets their tasks.
#[test]
fn worker_takes_over_from_one_that_is_gone() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["a"], 2).await;
        let gone = Running::start(&db, short(), |_, _| std::future::pending::<Result<(), Failure>>());
        wait_for_state(&client, ids[0], State::Running).await;
        gone.task.abort();
        let worker = Running::start(&db, short(), |task, _| async move { Ok(task.try_number) });
        let task = wait_for_state(&client, ids[0], State::Success).await;
        assert_eq!(task.try_number, 2);
        worker.stop().await;
    });
}

/// Renewals tell of requests to cancel, whatever else the heartbeat cannot do.
#[test]
fn request_to_cancel_arrives_if_reaping_fails() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, &["a"], 1).await;
        let worker = Running::start(&db, short(), |_, cancellation| async move {
            Err::<(), _>(Failure::new(cancellation.cancelled().await.to_string()))
        });
        wait_for_state(&client, ids[0], State::Running).await;
        client.batch_execute("ALTER FUNCTION workflow.reap_claims(integer) RENAME TO renamed").await.unwrap();
        Claims::new(&client).request_cancel(ids[0]).await.unwrap();
        wait_for_state(&client, ids[0], State::Failed).await;
        worker.stop().await;
    });
}
