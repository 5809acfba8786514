//! A worker of a replay: it claims tasks and runs each for its recorded duration.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::worker::{self, Cancellation};
use pg_workflow_client::{self as client, ClaimedTask, Failure};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::wfformat::Trace;

/// Short, so that the tasks of a killed worker soon continue.
const LEASE: Duration = Duration::from_secs(3);
/// Tasks that run at the end of a replay that was stopped.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// Returns the queue of a trace. Its workers run tasks of all its runs.
pub fn queue(trace: &Trace) -> String {
    let name: String = trace.name.chars().take(200).collect();
    format!("replay {name}")
}

/// The part of a run's parameters that a worker needs.
#[derive(Deserialize)]
pub struct Parameters {
    speed: f64,
}

/// Works on the tasks of a trace until `stop`, on as many at a time as it has places.
///
/// # Errors
/// Returns [`client::Error::Invalid`] if the database rejects the options.
pub fn work(
    server: PostgresServer,
    trace: &Trace,
    places: usize,
    stop: CancellationToken,
) -> impl Future<Output = Result<(), client::Error>> + use<> {
    let options = worker::Options {
        name: format!("replay, process {}", std::process::id()),
        queues: vec![queue(trace)],
        concurrency: places,
        lease: LEASE,
        shutdown_limit: SHUTDOWN_LIMIT,
    };
    let runtimes: HashMap<String, Duration> = trace.tasks.iter().map(|task| (task.id.clone(), task.runtime)).collect();
    let runtimes = Arc::new(runtimes);
    worker::run(server, options, move |task, cancellation| run_task(runtimes.clone(), task, cancellation), stop)
}

async fn run_task(
    runtimes: Arc<HashMap<String, Duration>>,
    task: ClaimedTask,
    cancellation: Cancellation,
) -> Result<(), Failure> {
    let Parameters { speed } = task.parse_conf()?;
    let Some(recorded) = runtimes.get(&task.task_id) else {
        return Err(Failure::new("the trace has no such task").without_retry());
    };
    let runtime = Duration::try_from_secs_f64(recorded.as_secs_f64() / speed).unwrap_or(Duration::MAX);
    tokio::select! {
        () = tokio::time::sleep(runtime) => Ok(()),
        reason = cancellation.cancelled() => Err(Failure::new(reason.to_string())),
    }
}
