//! A worker that runs shell commands: a task's command is in the parameters of its run, under the name of the task.
//!
//! ```sh
//! DATABASE_URL=postgres://… cargo run --example worker -- 3
//! ```
//!
//! It creates a run with three tasks and works on them. It ends after this number of attempts; without a number at
//! Ctrl-C, after the current commands. Commands that run 15 s later are killed, and their tasks are released.

use std::collections::HashMap;
use std::error::Error;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::worker::{self, Cancellation, Options};
use pg_workflow_client::{
    ClaimedTask, DagRuns, Dags, Error as WorkflowError, Failure, NewDag, NewDagRun, NewTaskInstances, TaskInstances,
};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let attempts: u64 = std::env::args().nth(1).map_or(Ok(u64::MAX), |count| count.parse())?;
    let server = PostgresServer::parse(&std::env::var("DATABASE_URL")?)?;
    create_run(&server).await?;

    let (done, shutdown) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    let stop = shutdown.clone();
    let handle = move |task: ClaimedTask, cancellation: Cancellation| {
        let (done, stop) = (done.clone(), stop.clone());
        async move {
            let name = format!("{}, attempt {}", task.task_id, task.try_number);
            let ended = run_command(&task, &cancellation).await;
            match &ended {
                Ok(result) => println!("{name}: {result}"),
                Err(failure) => println!("{name}: {}", failure.error()),
            }
            if done.fetch_add(1, Ordering::SeqCst) + 1 == attempts {
                stop.cancel();
            }
            ended
        }
    };
    let options = Options { queues: vec!["commands".to_owned()], concurrency: 2, ..Options::default() };
    worker::run(server, options, handle, shutdown).await?;
    Ok(())
}

/// Runs the command of a task. What it prints is the result, or the error.
async fn run_command(task: &ClaimedTask, cancellation: &Cancellation) -> Result<Value, Failure> {
    let mut commands: HashMap<String, String> = task.parse_conf()?;
    let Some(command) = commands.remove(&task.task_id) else {
        return Err(Failure::new("the run has no command for this task").without_retry());
    };
    let mut shell = Command::new("sh");
    // A command whose handler is dropped is killed.
    shell.arg("-c").arg(command).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::select! {
        output = shell.output() => output?,
        reason = cancellation.cancelled() => return Err(Failure::new(reason.to_string())),
    };
    match output.status.success() {
        true => Ok(json!({ "printed": String::from_utf8_lossy(&output.stdout).trim_end() })),
        false => {
            let printed = String::from_utf8_lossy(&output.stderr);
            Err(Failure::new(format!("{}: {}", output.status, printed.trim_end())))
        }
    }
}

/// Creates a run whose parameters have the commands, and its tasks: all of it or nothing.
async fn create_run(server: &PostgresServer) -> Result<(), WorkflowError> {
    let mut client = server.connect().await?;
    let transaction = client.transaction().await?;
    let dags = Dags::new(&transaction);
    let dag = match dags.get_by_name("commands").await? {
        Some(dag) => dag.id,
        None => dags.create(&NewDag::named("commands")).await?,
    };
    let conf = json!({ "multiply": "echo $((7 * 6))", "count": "seq 100 | wc -l", "fail": "ls /nonexistent" });
    let run = DagRuns::new(&transaction).create(&NewDagRun { conf, ..NewDagRun::of(dag) }).await?;
    let queue = Some("commands".to_owned());
    let tasks = NewTaskInstances { queue, ..NewTaskInstances::of(run, ["multiply", "count", "fail"]) };
    TaskInstances::new(&transaction).create_many(&tasks).await?;
    transaction.commit().await?;
    Ok(())
}
