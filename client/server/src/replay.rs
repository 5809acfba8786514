//! Running a recorded workflow again: the database's functions, called as a fleet of workers would call them.

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

/// How long creating the run may take, and how long a move is tried again while the database is away.
const GIVE_UP: Duration = Duration::from_secs(60);
/// How long a worker waits for a connection before that counts as an attempt.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a replay ended early.
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
        /// The state that it was to leave.
        from: State,
        /// The state that it was to enter.
        to: State,
        /// The reason.
        source: client::Error,
    },
}

impl Error {
    /// Names what an operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Database(error) | Error::Transition { source: error, .. } => error.hint(),
        }
    }
}

/// How to replay.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How fast.
    pub pace: Pace,
    /// How many database connections the workers share (at least 1).
    pub connections: u32,
}

/// How fast to replay.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many times as fast as it was recorded; more than 0.
    Speed(f64),
    /// So fast that the longest path takes this long.
    Within(Duration),
}

impl Pace {
    /// How many times as fast as it was recorded.
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

/// How far a replay is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The run, once it exists.
    pub dag_run_id: Option<Uuid>,
    /// Tasks that wait.
    pub queued: usize,
    /// Tasks that run.
    pub running: usize,
    /// Tasks that are done.
    pub success: usize,
    /// Moves made, of tasks and of the run.
    pub moves: usize,
}

/// What a replay did.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The DAG, new or reused.
    pub dag_id: Uuid,
    /// The run.
    pub dag_run_id: Uuid,
    /// Tasks run.
    pub tasks: usize,
    /// Moves made: two for each task, two for the run.
    pub moves: usize,
    /// Creations recorded in the history: one for each task, one for the run.
    pub creations: usize,
    /// From the first statement to the last.
    pub elapsed: Duration,
}

/// Creates the trace's DAG (or takes the one of that name), a run and its tasks, runs each task when its parents are
/// done for as long as it was recorded to run, and returns when the run has ended.
///
/// A connection that breaks during a move is no harm: the move is made again under the same request id.
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
/// println!("{} moves in {:?}", report.moves, report.elapsed);
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
        acquire_timeout: PATIENCE,
        statement_timeout: STATEMENT_TIMEOUT,
        ..pool::Options::default()
    };
    let pool = Pool::new(server.clone(), limits);
    let fleet = Fleet { pool, outage: Mutex::new(Outage::of("PostgreSQL")), trace, run: &run, speed, progress };
    fleet.move_run(State::Queued, State::Running).await?;
    fleet.run_tasks().await?;
    fleet.move_run(State::Running, State::Success).await?;

    let moves = progress.borrow().moves;
    let tasks = trace.tasks.len();
    Ok(Report {
        dag_id: run.dag_id,
        dag_run_id: run.id,
        tasks,
        moves,
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
    /// In one transaction, so that a failure leaves nothing behind but the DAG.
    async fn create(mut client: Client, trace: &Trace, speed: f64) -> Result<Run, client::Error> {
        let dag_id = dag(&client, trace).await?;
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

/// The DAG of the trace's name, created where there is none.
async fn dag(client: &Client, trace: &Trace) -> Result<Uuid, client::Error> {
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
        // Somebody else was faster.
        Err(error @ client::Error::AlreadyExists { .. }) => {
            let dag = dags.get_by_name(&trace.name).await?;
            dag.map(|dag| dag.id).ok_or(error)
        }
        created => created,
    }
}

/// The workers: one for each task that is ready, with a few connections between them.
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
        let roots = (0..tasks.len()).filter(|&place| missing[place] == 0);
        let mut working: FuturesUnordered<_> = roots.map(|place| self.run_task(place)).collect();
        while let Some(done) = working.next().await {
            for &child in &tasks[done?].children {
                missing[child] -= 1;
                if missing[child] == 0 {
                    working.push(self.run_task(child));
                }
            }
        }
        Ok(())
    }

    /// Returns the place of the task, which its children wait for.
    async fn run_task(&self, place: usize) -> Result<usize, Error> {
        let task = &self.trace.tasks[place];
        let id = self.run.tasks[place];
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
        Ok(place)
    }

    async fn move_run(&self, from: State, to: State) -> Result<(), Error> {
        self.transition_with(EntityType::DagRun, self.run.id, &self.run.id.to_string(), from, to).await
    }

    /// Makes one move, again and again while the database is away. It cannot be made twice: all attempts have one
    /// request id.
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
        self.progress.send_modify(|progress| progress.moves += 1);
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

    fn with_outage(&self, tell: impl FnOnce(&mut Outage)) {
        tell(&mut self.outage.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}
