//! Replays a recorded workflow: an orchestrator puts each task into a queue when its parents are done, and workers claim
//! the tasks.

mod processes;
mod run;
mod scheduler;
mod worker;

use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::{TryFutureExt, future};
use pg_workflow_client::State;
use pg_workflow_client::{self as client, connect::PostgresServer, feed, position};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::wfformat::Trace;
use run::Run;
use scheduler::Scheduler;

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
    /// A transition was rejected, or the database was unavailable for too long.
    #[error("cannot move {entity} from {from} to {to}: {cause}")]
    Transition {
        /// The run.
        entity: String,
        /// Expected state.
        from: State,
        /// New state.
        to: State,
        /// The reason.
        cause: client::Error,
    },
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
            Error::Database(error) | Error::Transition { cause: error, .. } => error.hint(),
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
    /// Time from the first statement to the last.
    pub elapsed: Duration,
}

/// Creates a run of the trace and its tasks, and the DAG if it does not exist. Workers run each task after its parents for
/// its recorded duration: those of the given processes, else one of this process. Returns after the run has finished.
///
/// If a worker is lost, others get its tasks. An unavailable database is waited for.
///
/// # Errors
/// Returns [`Error::Database`] if the run cannot be created, or if the database is unavailable for more than a minute;
/// [`Error::Transition`] if a transition of the run is rejected, [`Error::Task`] if a task does not succeed,
/// [`Error::Workers`] if no worker is left. The run is then left as it is.
///
/// ```no_run
/// use std::path::Path;
/// use pg_workflow_client::connect::PostgresServer;
/// use pg_workflow_server::{replay, wfformat::Trace};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let server = PostgresServer::parse("postgres://postgres@127.0.0.1/workflow")?;
/// let trace = Trace::read(Path::new("client/examples/traces/etl.json"))?;
/// let (progress, _watch_this) = tokio::sync::watch::channel(replay::Progress::default());
/// let report = replay::run(&server, &trace, replay::Pace::Speed(10.0), None, &progress).await?;
/// println!("{} transitions in {:?}", report.transitions, report.elapsed);
/// # Ok(())
/// # }
/// ```
pub async fn run(
    server: &PostgresServer,
    trace: &Trace,
    pace: Pace,
    processes: Option<Processes>,
    progress: &watch::Sender<Progress>,
) -> Result<Report, Error> {
    let started = Instant::now();
    let speed = pace.speed(trace);
    let creating = tokio::time::timeout(GIVE_UP, async {
        let client = feed::connect_to_wait(server).await?;
        // Before the first event of the run.
        let position = position::current(&client).await?;
        Ok::<_, client::Error>((position, Run::create(client, trace, speed).await?))
    });
    let (position, run) = creating.await.map_err(|_| client::Error::Timeout(GIVE_UP))??;
    progress.send_replace(Progress { dag_run_id: Some(run.id), queued: trace.tasks.len(), ..Progress::default() });

    let scheduling = Scheduler::new(server, trace, &run, progress, position).run();
    match processes {
        Some(processes) => with_processes(scheduling, processes).await?,
        None => with_worker(scheduling, server, trace).await?,
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

/// Schedules while other processes work.
async fn with_processes(
    scheduling: impl Future<Output = Result<(), Error>>,
    mut processes: Processes,
) -> Result<(), Error> {
    let finished = tokio::select! {
        finished = scheduling => finished,
        gone = processes.all_ended() => Err(gone),
    };
    processes.stop().await;
    finished
}

/// Schedules while a worker of this process works.
async fn with_worker(
    scheduling: impl Future<Output = Result<(), Error>>,
    server: &PostgresServer,
    trace: &Trace,
) -> Result<(), Error> {
    let stop = CancellationToken::new();
    let working = work(server.clone(), trace, trace.tasks.len(), stop.clone());
    let scheduling = async {
        scheduling.await?;
        stop.cancel();
        Ok(())
    };
    future::try_join(scheduling, working.map_err(Error::Database)).await.map(drop)
}
