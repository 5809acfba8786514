//! A run from its creation to its end: tasks, single and batch transitions, and a lost race.
//!
//! ```sh
//! DATABASE_URL=postgres://… cargo run --example create_and_run
//! ```

use std::error::Error;

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::pool::{Options, Pool};
use pg_workflow_client::{
    DagRuns, Dags, Error as WorkflowError, LogLevel, NewDag, NewDagRun, NewTaskInstances, State, TaskInstances,
    TaskLogs, Transition,
};
use serde_json::json;
use uuid::Uuid;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(PostgresServer::parse(&std::env::var("DATABASE_URL")?)?, Options::default());
    let (run, tasks) = create(&pool).await?;
    println!("run {run}");

    let [extract, transform, rest @ ..] = &tasks[..] else { return Err("five tasks were created".into()) };
    work(&pool, *extract).await?;
    lose_a_race(&pool, *transform).await?;
    finish(&pool, run, rest).await?;
    println!("done");
    Ok(())
}

/// Creates a run and its tasks, and starts the run: all of it or nothing.
async fn create(pool: &Pool) -> Result<(Uuid, Vec<Uuid>), Box<dyn Error>> {
    let mut connection = pool.get().await?;
    let transaction = connection.transaction().await?;
    let (dags, runs) = (Dags::new(&transaction), DagRuns::new(&transaction));
    let dag = match dags.get_by_name("orders").await? {
        Some(dag) => dag.id,
        None => dags.create(&NewDag::named("orders")).await?,
    };
    let run = runs.create(&NewDagRun { conf: json!({"region": "eu"}), ..NewDagRun::of(dag) }).await?;
    let names = ["extract", "transform", "load", "report", "clean_up"];
    let tasks = NewTaskInstances { max_tries: 2, ..NewTaskInstances::of(run, names) };
    let tasks = TaskInstances::new(&transaction).create_many(&tasks).await?;
    runs.transition(run, State::Queued, State::Running).await?;
    transaction.commit().await?;
    Ok((run, tasks))
}

/// Runs a task as a worker does: it fails once, and succeeds the second time.
async fn work(pool: &Pool, task: Uuid) -> Result<(), WorkflowError> {
    let connection = pool.get().await?;
    let (tasks, logs) = (TaskInstances::new(&connection), TaskLogs::new(&connection));
    // The idempotency key makes a retry safe: if the response is lost, the same request returns the same version.
    let start = Transition::new(State::Queued, State::Running)
        .with_metadata("worker", "w-7")
        .expecting_version(1)
        .with_request_id(Uuid::now_v7());
    let version = tasks.transition_with(task, &start).await?;
    logs.append(task, LogLevel::Error, "the source does not respond").await?;

    let failure =
        Transition::new(State::Running, State::Failed).with_metadata("error", "no response").expecting_version(version);
    tasks.transition_with(task, &failure).await?;
    tasks.transition(task, State::Failed, State::Retrying).await?;
    tasks.transition(task, State::Retrying, State::Running).await?;
    let version = tasks.transition(task, State::Running, State::Success).await?;
    println!("extract: success at version {version}, at the second attempt");
    Ok(())
}

/// Two workers claim the same task. The second one gets its current state, and does not run it.
async fn lose_a_race(pool: &Pool, task: Uuid) -> Result<(), WorkflowError> {
    let (one, other) = (pool.get().await?, pool.get().await?);
    TaskInstances::new(&one).transition(task, State::Queued, State::Running).await?;
    match TaskInstances::new(&other).transition(task, State::Queued, State::Running).await {
        Ok(version) => println!("transform: claimed, at version {version}"),
        Err(WorkflowError::Stale { current_state, current_version, .. }) => {
            println!("transform: lost the race, it is {current_state} at version {current_version}");
        }
        Err(error) => return Err(error),
    }
    TaskInstances::new(&one).transition(task, State::Running, State::Success).await?;
    Ok(())
}

/// Skips the other tasks in one statement, and finishes the run.
async fn finish(pool: &Pool, run: Uuid, tasks: &[Uuid]) -> Result<(), WorkflowError> {
    let connection = pool.get().await?;
    let instances = TaskInstances::new(&connection);
    for moved in instances.transition_many(tasks, State::Queued, State::Skipped).await? {
        println!("{}: {:?}, {:?} at version {:?}", moved.entity_id, moved.outcome, moved.state, moved.version);
    }
    DagRuns::new(&connection).transition(run, State::Running, State::Success).await?;
    Ok(())
}
