//! The repository of claims, on every kind of session.

use super::*;
use pg_workflow_client::model::{CancelOutcome, EnqueueOutcome, FinishOutcome, ReleaseOutcome, RenewOutcome};
use pg_workflow_client::{ClaimTasks, ClaimedTask, Claims, Enqueue, Error, Failure, Finish, State};
use serde_json::{Value, json};

/// Creates tasks of a new run, to be claimed from a queue.
async fn enqueue(session: &impl Session, queue: &str, names: &[&str], max_tries: i32) -> Vec<Uuid> {
    let dag = Dags::new(session).create(&NewDag::named(Uuid::new_v4().to_string())).await.expect("a DAG");
    let run = NewDagRun { conf: json!({"day": 7}), ..NewDagRun::of(dag) };
    let run = DagRuns::new(session).create(&run).await.expect("a run");
    let queue = Some(queue.to_owned());
    let tasks = NewTaskInstances { max_tries, queue, ..NewTaskInstances::of(run, names.iter().copied()) };
    TaskInstances::new(session).create_many(&tasks).await.expect("tasks")
}

async fn claim(session: &impl Session, queue: &str) -> Result<ClaimedTask, Error> {
    let one = ClaimTasks { queues: vec![queue.to_owned()], ..ClaimTasks::by("w-7") };
    Ok(Claims::new(session).claim(&one).await?.pop().expect("a task that can be claimed"))
}

async fn everything(session: &impl Session) -> Result<(), Error> {
    let queue = &Uuid::new_v4().to_string();
    single(session, queue).await?;
    many(session, queue).await?;
    given_back(session, queue).await?;
    put_into_a_queue(session, queue).await
}

async fn single(session: &impl Session, queue: &str) -> Result<(), Error> {
    let (claims, tasks) = (Claims::new(session), TaskInstances::new(session));
    let ids = enqueue(session, queue, &["a", "b"], 2).await;
    let first = claim(session, queue).await?;
    assert_eq!((first.id, first.task_id.as_str(), first.try_number), (ids[0], "a", 1));
    assert_eq!((first.parse_conf::<Value>()?, first.timeout), (json!({"day": 7}), None));
    let task = tasks.get(first.id).await?.expect("it exists");
    assert_eq!((task.dag_run_id, task.state), (first.dag_run_id, State::Running));
    let lease = (first.lease_expires_at - task.start_date.expect("it has started")).num_seconds();
    assert!((29..=30).contains(&lease), "{lease}");
    assert_eq!(claims.complete(&first.claim, &json!({"rows": 7})).await?, 3);
    assert_eq!(claims.complete(&first.claim, &json!({"rows": 7})).await?, 3, "the same again");

    let second = claim(session, queue).await?;
    let failure = Failure::new("busy").retry_after(Duration::ZERO).with_metadata("source", "crm");
    let failed = claims.fail(&second.claim, &failure).await?;
    assert_eq!((failed.state, failed.version), (State::Retrying, 3));
    let again = claim(session, queue).await?;
    assert_eq!((again.id, again.try_number), (ids[1], 2));
    assert_eq!(claims.fail(&again.claim, &Failure::new("busy")).await?.state, State::Failed, "no attempt is left");
    assert_eq!(tasks.get(ids[1]).await?.expect("it exists").error.as_deref(), Some("busy"));
    Ok(())
}

async fn many(session: &impl Session, queue: &str) -> Result<(), Error> {
    let claims = Claims::new(session);
    let ids = enqueue(session, queue, &["a", "b", "c", "d"], 9).await;
    let four = ClaimTasks { queues: vec![queue.to_owned()], max: 4, ..ClaimTasks::by("w-7") };
    let held = claims.claim(&four).await?;
    assert_eq!(held.iter().map(|task| task.id).collect::<Vec<_>>(), ids);
    TaskInstances::new(session).transition(ids[3], State::Running, State::Failed).await?;
    let ends = [
        Finish::success(&held[0].claim, json!({"rows": 7})),
        Finish::failure(&held[1].claim, Failure::new("busy")),
        Finish::failure(&held[2].claim, Failure::new("hopeless").without_retry().with_metadata("n", 1)),
        Finish::success(&held[3].claim, json!({})),
    ];
    let finished = claims.finish(&ends).await?;
    assert!(finished.iter().zip(&held).all(|(result, task)| result.claim == task.claim));
    let outcomes: Vec<_> = finished.iter().map(|result| (result.outcome, result.state, result.version)).collect();
    let expected = [
        (FinishOutcome::Done, Some(State::Success), Some(3)),
        (FinishOutcome::Done, Some(State::Retrying), Some(3)),
        (FinishOutcome::Done, Some(State::Failed), Some(3)),
        (FinishOutcome::Lost, Some(State::Failed), Some(3)),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(claims.finish_strictly(&ends[..3]).await?, finished[..3], "the same again");
    let metadata = "SELECT metadata FROM workflow.state_history WHERE entity_id = $1 AND version = 3";
    for (id, expected) in [(ids[0], json!({"rows": 7})), (ids[2], json!({"n": 1, "error": "hopeless"}))] {
        use tokio_postgres::GenericClient;
        let row = session.client().query_one(metadata, &[&id]).await?;
        assert_eq!(row.get::<_, Value>(0), expected);
    }
    Ok(())
}

async fn given_back(session: &impl Session, queue: &str) -> Result<(), Error> {
    let claims = Claims::new(session);
    enqueue(session, queue, &["a"], 1).await;
    let first = claim(session, queue).await?;
    let outcomes = claims.renew(&[&first.claim], None).await?;
    assert_eq!((outcomes[0].claim.as_str(), outcomes[0].outcome), (first.claim.as_str(), RenewOutcome::Renewed));
    assert_eq!(claims.release(&[&first.claim], Duration::ZERO).await?[0].outcome, ReleaseOutcome::Released);
    assert_eq!(claims.renew(&[&first.claim], None).await?[0].outcome, RenewOutcome::Lost);

    let second = claim(session, queue).await?;
    assert_eq!(second.try_number, 2, "though one is allowed: the first does not count");
    assert_eq!(claims.release(&[&first.claim], Duration::ZERO).await?[0].outcome, ReleaseOutcome::Released, "again");
    assert_eq!(claims.request_cancel(second.id).await?, CancelOutcome::Requested);
    let renewed = claims.renew(&[&second.claim], Some(Duration::from_secs(9))).await?;
    assert_eq!(renewed[0].outcome, RenewOutcome::Cancel);
    assert_eq!(claims.release(&[&second.claim], Duration::ZERO).await?[0].outcome, ReleaseOutcome::Cancelled);
    assert_eq!(claims.request_cancel(second.id).await?, CancelOutcome::Ended);
    Ok(())
}

async fn put_into_a_queue(session: &impl Session, queue: &str) -> Result<(), Error> {
    let claims = Claims::new(session);
    let (_, run, ids) = new_tasks(session, &["late", "urgent", "running"]).await;
    TaskInstances::new(session).transition(ids[2], State::Queued, State::Running).await?;
    let late = Enqueue { queue: queue.to_owned(), ..Enqueue::of([ids[0], ids[2], run]) };
    let outcomes: Vec<_> = claims.enqueue(&late).await?.iter().map(|result| (result.id, result.outcome)).collect();
    let expected =
        [(ids[0], EnqueueOutcome::Enqueued), (ids[2], EnqueueOutcome::Stale), (run, EnqueueOutcome::Missing)];
    assert_eq!(outcomes, expected);
    let urgent = Enqueue { priority: 0, queue: queue.to_owned(), ..Enqueue::of([ids[1]]) };
    claims.enqueue(&urgent).await?;
    assert_eq!(claim(session, queue).await?.id, ids[1]);
    assert_eq!(claims.request_cancel(ids[0]).await?, CancelOutcome::Skipped);
    assert_eq!(claims.request_cancel(run).await?, CancelOutcome::Requested);
    Ok(())
}

#[test]
fn claims_work_on_every_session() {
    let db = Db::new();
    run(async {
        let mut client = server(db.url()).connect().await.unwrap();
        everything(&client).await.unwrap();
        let transaction = client.transaction().await.unwrap();
        everything(&transaction).await.unwrap();
        transaction.commit().await.unwrap();

        let pool = pool(db.url(), Options::default());
        let mut connection = pool.get().await.unwrap();
        everything(&connection).await.unwrap();
        let transaction = connection.transaction().await.unwrap();
        everything(&transaction).await.unwrap();
        transaction.rollback().await.unwrap();
    });
}

#[test]
fn new_tasks_wait_for_their_time_and_time_out() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let claims = Claims::new(&client);
        let (_, run, _) = new_tasks(&client, &[]).await;
        let tasks = |names: [&str; 1]| NewTaskInstances {
            queue: Some("default".to_owned()),
            timeout: Some(Duration::from_millis(1500)),
            ..NewTaskInstances::of(run, names)
        };
        let later =
            NewTaskInstances { not_before: Some(chrono::Utc::now() + chrono::TimeDelta::days(1)), ..tasks(["b"]) };
        TaskInstances::new(&client).create_many(&later).await.unwrap();
        assert!(!claims.wait(&["default"], Duration::ZERO).await.unwrap());
        let now = TaskInstances::new(&client).create_many(&tasks(["a"])).await.unwrap();
        assert!(claims.wait(&["default"], Duration::from_secs(9)).await.unwrap());
        let held = claims.claim(&ClaimTasks { max: 9, ..ClaimTasks::by("w-7") }).await.unwrap();
        assert_eq!((held.len(), held[0].id, held[0].timeout), (1, now[0], Some(Duration::from_millis(1500))));

        let reaped = claims.reap(10).await.unwrap();
        assert!(reaped.is_empty(), "{reaped:?}");
        let mut reaped = Vec::new();
        wait_for("the timeout", async || {
            reaped = claims.reap(10).await.unwrap();
            !reaped.is_empty()
        })
        .await;
        assert_eq!((reaped[0].id, reaped[0].worker.as_str(), reaped[0].state), (now[0], "w-7", State::Failed));
        assert_eq!(reaped[0].reason, "timeout");
    });
}

#[test]
fn lost_claim_is_an_error_of_its_own() {
    let db = Db::new();
    run(async {
        let mut client = server(db.url()).connect().await.unwrap();
        let ids = enqueue(&client, "default", &["a", "b"], 1).await;
        let [first, second] = [claim(&client, "default").await.unwrap(), claim(&client, "default").await.unwrap()];
        let tasks = TaskInstances::new(&client);
        tasks.transition(ids[0], State::Running, State::Success).await.unwrap();
        let claims = Claims::new(&client);
        for error in [
            claims.complete(&first.claim, &json!({})).await.unwrap_err(),
            claims.fail(&first.claim, &Failure::new("x")).await.map(drop).unwrap_err(),
            claims.finish_strictly(&[Finish::success(&first.claim, json!({}))]).await.map(drop).unwrap_err(),
        ] {
            let Error::ClaimLost { claim, task_instance_id, current_state, current_version, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!((claim, task_instance_id), (&first.claim, &ids[0]));
            assert_eq!((*current_state, *current_version), (Some(State::Success), Some(3)));
            assert!(!error.is_transient() && error.code().unwrap().code() == "40001", "{error}");
            assert!(error.hint().contains("Stop this work"), "{}", error.hint());
        }
        tasks.delete(ids[1]).await.unwrap();
        let error = claims.complete(&second.claim, &json!({})).await.unwrap_err();
        assert!(matches!(&error, Error::ClaimLost { current_state: None, .. }), "{error:?}");
        assert!(!error.is_transient());

        let error = claims.complete("a claim", &json!({})).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid { argument, .. } if argument == "claim"), "{error:?}");
        let error = claims.request_cancel(Uuid::from_u128(7)).await.unwrap_err();
        assert!(matches!(&error, Error::NotFound { .. }), "{error:?}");
        let transaction = client.transaction().await.unwrap();
        let error = Claims::new(&transaction).wait(&["default"], Duration::ZERO).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "25001", "{error:?}");
    });
}
