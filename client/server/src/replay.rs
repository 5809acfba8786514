//! Replays a recorded workflow: calls the functions of the database as a fleet of workers does.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use pg_workflow_client::State;
use pg_workflow_client::tokio_postgres::Client;
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use crate::wfformat::Trace;
use pg_workflow_client as client;
use pg_workflow_client::connect::{PostgresServer, STATEMENT_TIMEOUT};
use pg_workflow_client::event::EntityType;
use pg_workflow_client::outage::{Backoff, Outage};
use pg_workflow_client::pool::{self, Pool};
use pg_workflow_client::{DagRuns, Dags, NewDag, NewDagRun, NewTaskInstances, TaskInstances, Transition};

/// Time limit for creating the run, and for retrying a transition while the database is unavailable.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Time that a worker waits for a connection in each attempt.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);

/// The reason why a replay failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The run could not be created.
    #[error(transparent)]
    Database(#[from] client::Error),
    /// A transition was rejected, or the database was unavailable for too long.
    #[error("cannot move {entity} from {from} to {to}: {source}")]
    Transition {
        /// The run or the task.
        entity: String,
        /// Expected state.
        from: State,
        /// New state.
        to: State,
        /// The reason.
        source: client::Error,
    },
}

impl Error {
    /// Returns a hint for the operator.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Database(error) | Error::Transition { source: error, .. } => error.hint(),
        }
    }
}

/// Options of a replay.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pace.
    pub pace: Pace,
    /// Number of database connections that the workers share, at least 1.
    pub connections: u32,
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
    /// Queued tasks.
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
    /// Number of transitions: two for each task, two for the run.
    pub transitions: usize,
    /// Number of creations in the history: one for each task, one for the run.
    pub creations: usize,
    /// Time from the first statement to the last.
    pub elapsed: Duration,
}

/// Creates a run of the trace and its tasks, and the DAG if it does not exist. Runs each task after its parents for its
/// recorded duration, and returns after the run has finished.
///
/// If a connection breaks during a transition, the transition is retried with the same idempotency key.
///
/// # Errors
/// Returns [`Error::Database`] if the run cannot be created, [`Error::Transition`] if a transition is rejected or the
/// database is unavailable for more than a minute. The run is then left as it is.
///
/// ```no_run
/// use pg_workflow_client::connect::PostgresServer;
/// use pg_workflow_server::{replay, wfformat::Trace};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let server = PostgresServer::parse("postgres://postgres@127.0.0.1/workflow")?;
/// let trace = Trace::read("client/examples/traces/etl.json".as_ref())?;
/// let options = replay::Options { pace: replay::Pace::Speed(10.0), connections: 8 };
/// let (progress, _watch_this) = tokio::sync::watch::channel(replay::Progress::default());
/// let report = replay::run(&server, &trace, &options, &progress).await?;
/// println!("{} transitions in {:?}", report.transitions, report.elapsed);
/// # Ok(())
/// # }
/// ```
pub async fn run(
    server: &PostgresServer,
    trace: &Trace,
    options: &Options,
    progress: &watch::Sender<Progress>,
) -> Result<Report, Error> {
    let started = Instant::now();
    let speed = options.pace.speed(trace);
    let client = server.connect().await?;
    let creating = tokio::time::timeout(GIVE_UP, Run::create(client, trace, speed));
    let run = creating.await.map_err(|_| client::Error::Timeout(GIVE_UP))??;
    progress.send_replace(Progress { dag_run_id: Some(run.id), queued: trace.tasks.len(), ..Progress::default() });

    let limits = pool::Options {
        max_connections: options.connections,
        acquire_timeout: ACQUIRE_LIMIT,
        statement_timeout: STATEMENT_TIMEOUT,
        ..pool::Options::default()
    };
    let pool = Pool::new(server.clone(), limits);
    let fleet = Fleet { pool, outage: Mutex::new(Outage::of("PostgreSQL")), trace, run: &run, speed, progress };
    fleet.move_run(State::Queued, State::Running).await?;
    fleet.run_tasks().await?;
    fleet.move_run(State::Running, State::Success).await?;

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

/// The run in the database.
struct Run {
    id: Uuid,
    dag_id: Uuid,
    /// The ids of its tasks, in the order of the trace.
    tasks: Vec<Uuid>,
}

impl Run {
    /// Creates the run in one transaction: if that fails, only the DAG remains.
    async fn create(mut client: Client, trace: &Trace, speed: f64) -> Result<Run, client::Error> {
        let dag_id = find_or_create_dag(&client, trace).await?;
        let conf = json!({
            "trace": trace.source,
            "executed_at": trace.executed_at,
            "created_at": trace.created_at,
            "schema_version": trace.schema_version,
            "speed": speed,
        });
        let run = NewDagRun { conf, ..NewDagRun::of(dag_id) };
        let task_ids = trace.tasks.iter().map(|task| task.id.as_str());

        let transaction = client.transaction().await?;
        let id = DagRuns::new(&transaction).create(&run).await?;
        let tasks = TaskInstances::new(&transaction).create_many(&NewTaskInstances::of(id, task_ids)).await?;
        transaction.commit().await?;
        Ok(Run { id, dag_id, tasks })
    }
}

/// Returns the DAG with the name of the trace, and creates it if it does not exist.
async fn find_or_create_dag(client: &Client, trace: &Trace) -> Result<Uuid, client::Error> {
    let dags = Dags::new(client);
    if let Some(dag) = dags.get_by_name(&trace.name).await? {
        return Ok(dag.id);
    }
    let new = NewDag {
        description: trace.description.clone(),
        tags: vec!["replay".to_owned()],
        ..NewDag::named(&trace.name)
    };
    match dags.create(&new).await {
        // Another client created it first.
        Err(error @ client::Error::AlreadyExists { .. }) => {
            let dag = dags.get_by_name(&trace.name).await?;
            dag.map(|dag| dag.id).ok_or(error)
        }
        created => created,
    }
}

/// The workers: one for each ready task. They share some connections.
struct Fleet<'a> {
    pool: Pool,
    outage: Mutex<Outage>,
    trace: &'a Trace,
    run: &'a Run,
    speed: f64,
    progress: &'a watch::Sender<Progress>,
}

impl Fleet<'_> {
    async fn run_tasks(&self) -> Result<(), Error> {
        let tasks = &self.trace.tasks;
        let mut missing: Vec<usize> = tasks.iter().map(|task| task.parents.len()).collect();
        let roots = (0..tasks.len()).filter(|&index| missing[index] == 0);
        let mut workers: FuturesUnordered<_> = roots.map(|index| self.run_task(index)).collect();
        while let Some(finished) = workers.next().await {
            for &child in &tasks[finished?].children {
                missing[child] -= 1;
                if missing[child] == 0 {
                    workers.push(self.run_task(child));
                }
            }
        }
        Ok(())
    }

    /// Runs a task and returns its index.
    async fn run_task(&self, index: usize) -> Result<usize, Error> {
        let task = &self.trace.tasks[index];
        let id = self.run.tasks[index];
        let runtime = Duration::try_from_secs_f64(task.runtime.as_secs_f64() / self.speed).unwrap_or(Duration::MAX);
        self.transition_with(EntityType::TaskInstance, id, &task.id, State::Queued, State::Running).await?;
        self.progress.send_modify(|progress| {
            progress.queued -= 1;
            progress.running += 1;
        });
        tokio::time::sleep(runtime).await;
        self.transition_with(EntityType::TaskInstance, id, &task.id, State::Running, State::Success).await?;
        self.progress.send_modify(|progress| {
            progress.running -= 1;
            progress.success += 1;
        });
        Ok(index)
    }

    async fn move_run(&self, from: State, to: State) -> Result<(), Error> {
        self.transition_with(EntityType::DagRun, self.run.id, &self.run.id.to_string(), from, to).await
    }

    /// Makes one transition, and retries while the database is unavailable. It happens at most once: all attempts have the
    /// same idempotency key.
    async fn transition_with(
        &self,
        kind: EntityType,
        id: Uuid,
        name: &str,
        from: State,
        to: State,
    ) -> Result<(), Error> {
        let request = Uuid::now_v7().to_string();
        let give_up = Instant::now() + GIVE_UP;
        let mut backoff = Backoff::new();
        loop {
            match self.attempt(kind, id, from, to, &request).await {
                Ok(()) => break,
                Err(error) if error.is_transient() && Instant::now() < give_up => {
                    self.with_outage(|outage| outage.began(&error));
                    backoff.wait().await;
                }
                Err(error) => {
                    return Err(Error::Transition { entity: format!("{kind} \"{name}\""), from, to, source: error });
                }
            }
        }
        self.with_outage(Outage::ended);
        self.progress.send_modify(|progress| progress.transitions += 1);
        Ok(())
    }

    async fn attempt(
        &self,
        kind: EntityType,
        id: Uuid,
        from: State,
        to: State,
        request: &str,
    ) -> Result<(), client::Error> {
        let connection = self.pool.get().await?;
        let transition = Transition::new(from, to).with_request_id(request);
        match kind {
            EntityType::DagRun => DagRuns::new(&connection).transition_with(id, &transition).await?,
            EntityType::TaskInstance => TaskInstances::new(&connection).transition_with(id, &transition).await?,
        };
        Ok(())
    }

    fn with_outage(&self, update: impl FnOnce(&mut Outage)) {
        update(&mut self.outage.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}
