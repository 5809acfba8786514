//! Replays a recorded workflow: the database knows which task waits for which others, and workers claim those that may
//! run. No process schedules, so a replay that was killed can be continued.

mod observer;
mod processes;
mod run;
mod worker;

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::{TryFutureExt, future};
use pg_workflow_client::State;
use pg_workflow_client::{self as client, connect::PostgresServer, feed};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::wfformat::Trace;
use observer::Observer;
use run::Run;

pub use processes::{Processes, parent_ended};
pub use worker::work;

/// Time limit for creating the run, and for retrying a call while the database is unavailable.
const GIVE_UP: Duration = Duration::from_secs(60);

/// The reason why a replay failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The run could not be created, or the database was unavailable for too long.
    #[error(transparent)]
    Database(#[from] client::Error),
    /// The run does not exist, or was deleted.
    #[error("no run {0}")]
    NoRun(Uuid),
    /// The run is not one of this trace that can be continued.
    #[error("cannot continue run {0}: {1}")]
    Resume(Uuid, String),
    /// A task did not succeed.
    #[error("task \"{task_id}\" is {}", state.map_or("deleted", State::as_str))]
    Task {
        /// Its name.
        task_id: String,
        /// Its state; `None` if it was deleted.
        state: Option<State>,
    },
    /// No worker is left, or none could be started.
    #[error("no worker runs: {0}")]
    Workers(String),
}

impl Error {
    /// Returns a hint for the operator.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Database(error) => error.hint(),
            Error::NoRun(_) => "List runs with: workflow-server list runs",
            Error::Resume(..) => "Replay the trace without --resume",
            Error::Task { .. } => "Read the history of the task, and replay again",
            Error::Workers(_) => "Read their log above, and replay again",
        }
    }
}

/// The pace of a replay.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Speed factor relative to the recording; more than 0.
    Speed(f64),
    /// Duration of the longest path.
    Within(Duration),
}

impl Pace {
    /// Returns the speed factor.
    fn speed(self, trace: &Trace) -> f64 {
        match self {
            Pace::Speed(speed) => speed,
            Pace::Within(limit) => match trace.critical_path() {
                Duration::ZERO => 1.0,
                path => path.as_secs_f64() / limit.as_secs_f64(),
            },
        }
    }
}

/// The run of a replay.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// A new run, at this pace.
    New(Pace),
    /// A run that an earlier replay of the same trace left unfinished, at its pace.
    Resume(Uuid),
}

/// The progress of a replay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Id of the run, after its creation.
    pub dag_run_id: Option<Uuid>,
    /// Tasks that wait for their parents, for a worker or for another attempt.
    pub queued: usize,
    /// Running tasks.
    pub running: usize,
    /// Successful tasks.
    pub success: usize,
    /// Failed and skipped tasks.
    pub failed: usize,
    /// Transitions of tasks and of the run.
    pub transitions: usize,
}

/// The result of a replay.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Id of the DAG, new or existing.
    pub dag_id: Uuid,
    /// Id of the run.
    pub dag_run_id: Uuid,
    /// Number of tasks.
    pub tasks: usize,
    /// Number of transitions: two for each task, two for the run, and two for each further attempt.
    pub transitions: usize,
    /// Number of creations in the history: one for each task, one for the run.
    pub creations: usize,
    /// Time from the first statement of this replay to the last.
    pub elapsed: Duration,
}

/// Creates a run of the trace with its tasks and their dependencies, and the DAG if it does not exist; or continues a run.
/// Workers claim the tasks that may run, and run each for its recorded duration: those of the given processes, else one of
/// this process. The run starts with the first claim, and ends itself; this function then returns.
///
/// If a worker is lost, others get its tasks. If all of the replay is killed, [`Start::Resume`] continues the run. An
/// unavailable database is waited for.
///
/// # Errors
/// Returns [`Error::Database`] if the run cannot be created, or if the database is unavailable for more than a minute;
/// [`Error::NoRun`] or [`Error::Resume`] if the run cannot be continued, [`Error::Task`] if the run has ended and a task has
/// not succeeded, [`Error::Workers`] if no worker is left. The run is then left as it is.
///
/// ```no_run
/// use std::path::Path;
/// use pg_workflow_client::connect::PostgresServer;
/// use pg_workflow_server::replay::{self, Pace, Progress, Start};
/// use pg_workflow_server::wfformat::Trace;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let server = PostgresServer::parse("postgres://postgres@127.0.0.1/workflow")?;
/// let trace = Trace::read(Path::new("client/examples/traces/etl.json"))?;
/// let (progress, _watch_this) = tokio::sync::watch::channel(Progress::default());
/// let report = replay::run(&server, &trace, Start::New(Pace::Speed(10.0)), None, &progress).await?;
/// println!("{} transitions in {:?}", report.transitions, report.elapsed);
/// # Ok(())
/// # }
/// ```
pub async fn run(
    server: &PostgresServer,
    trace: &Trace,
    start: Start,
    processes: Option<Processes>,
    progress: &watch::Sender<Progress>,
) -> Result<Report, Error> {
    let started = Instant::now();
    let starting = tokio::time::timeout(GIVE_UP, async {
        let mut client = feed::connect_to_wait(server).await?;
        match start {
            Start::New(pace) => Ok(Run::create(&mut client, trace, pace.speed(trace)).await?),
            Start::Resume(id) => Run::find(&client, trace, id).await,
        }
    });
    let run = starting.await.map_err(|_| client::Error::Timeout(GIVE_UP))??;
    progress.send_replace(Progress { dag_run_id: Some(run.id), ..Progress::default() });
    // If this process is killed, nothing else tells it.
    tracing::info!(
        "dag_run {id} has {} tasks; continue it after a kill with --resume {id}",
        trace.tasks.len(),
        id = run.id
    );

    let observing = Observer::new(server, trace, &run, progress).run();
    match processes {
        Some(processes) => with_processes(observing, processes).await?,
        None => with_worker(observing, server, trace).await?,
    }
    let transitions = progress.borrow().transitions;
    let tasks = trace.tasks.len();
    Ok(Report {
        dag_id: run.dag_id,
        dag_run_id: run.id,
        tasks,
        transitions,
        creations: tasks + 1,
        elapsed: started.elapsed(),
    })
}

/// Waits for the end of the run while other processes work.
async fn with_processes(
    observing: impl Future<Output = Result<(), Error>>,
    mut processes: Processes,
) -> Result<(), Error> {
    let finished = tokio::select! {
        finished = observing => finished,
        gone = processes.all_ended() => Err(gone),
    };
    processes.stop().await;
    finished
}

/// Waits for the end of the run while a worker of this process works.
async fn with_worker(
    observing: impl Future<Output = Result<(), Error>>,
    server: &PostgresServer,
    trace: &Trace,
) -> Result<(), Error> {
    let stop = CancellationToken::new();
    let working = work(server.clone(), trace, trace.tasks.len(), stop.clone());
    let observing = async {
        observing.await?;
        stop.cancel();
        Ok(())
    };
    future::try_join(observing, working.map_err(Error::Database)).await.map(drop)
}
