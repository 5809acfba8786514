//! Workers: claim tasks from queues, call your handler for each, and report how it ended.
//!
//! A worker claims no more tasks than it has free places, so a task waits in the database and not in a worker. It renews
//! its leases while handlers run, and reports ends in batches that gather while the last one is reported. A handler that
//! fails or panics fails its task, with the message; the database retries it if attempts are left, after 2 s, 4 s, 8 s
//! and so on, unless the [`Failure`] names another time. A result that the database refuses, because it is too long or a
//! trigger on the task fails, fails its task, too; if that is refused as well, its lease runs out. A refused or locked task
//! holds up none of the others.
//!
//! A worker waits for an unavailable server, and logs the outage once; meanwhile handlers run, and results are kept. A
//! connection that breaks loses no task and no result, nor does a commit that waits for a synchronous standby: the worker
//! claims nothing until it knows the outcome. A lease that runs out before is lost.
//!
//! Work can be done twice: if a worker hangs for longer than its lease, another one gets the task, and the result of the
//! first does not count. To write to the same database exactly once, write in a transaction that calls
//! [`Claims::complete`](crate::Claims::complete) with the task's claim; the worker then finds the claim ended as a
//! success.
//!
//! ```no_run
//! use pg_workflow_client::connect::PostgresServer;
//! use pg_workflow_client::worker::{self, Cancellation, Options};
//! use pg_workflow_client::{ClaimedTask, Failure};
//! use serde_json::{Value, json};
//! use tokio_util::sync::CancellationToken;
//!
//! async fn handle(task: ClaimedTask, cancellation: Cancellation) -> Result<Value, Failure> {
//!     println!("{}, attempt {}", task.task_id, task.try_number);
//!     tokio::select! {
//!         answer = tokio::net::lookup_host((&*task.task_id, 80)) => Ok(json!({"addresses": answer?.count()})),
//!         reason = cancellation.cancelled() => Err(Failure::new(reason.to_string())),
//!     }
//! }
//!
//! # async fn example() -> Result<(), pg_workflow_client::Error> {
//! let server = PostgresServer::parse("postgres://alice@db.example/workflow")?;
//! let options = Options { queues: vec!["etl".to_owned()], concurrency: 4, ..Options::default() };
//! worker::run(server, options, handle, CancellationToken::new()).await
//! # }
//! ```

mod cancellation;
mod claimer;
mod completer;
mod handling;
mod heartbeat;
mod held;
mod link;
mod renewal;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::Error;
use crate::connect::PostgresServer;
use crate::model::ClaimedTask;
use crate::repository::{ClaimTasks, Failure};
use claimer::Claimer;
use completer::{Completer, Ended};
use held::Held;

pub use cancellation::{CancelReason, Cancellation};

/// The most tasks that a worker holds at a time, as the database limits a claim.
const MOST: usize = 10_000;
/// How long a handler that was told to stop may run, before it is dropped.
const CANCEL_LIMIT: Duration = Duration::from_secs(1);
/// How long a worker that stops tries to report ends, and then to release tasks.
const REPORT_LIMIT: Duration = Duration::from_secs(5);

/// Options of a worker.
///
/// ```
/// use pg_workflow_client::worker::Options;
///
/// let options = Options { queues: vec!["etl".to_owned()], concurrency: 4, ..Options::default() };
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// The worker's name, for people: in the history, in the view `claims`.
    pub name: String,
    /// The queues to take from, in this order.
    pub queues: Vec<String>,
    /// Number of tasks at a time, 1 to 10,000.
    pub concurrency: usize,
    /// Time after which another worker gets the tasks of this one, if it is gone. It renews its leases every third of
    /// it, and so often learns of requests to cancel.
    pub lease: Duration,
    /// How long handlers may run after `shutdown`. Then they are told to stop, and their tasks are released.
    pub shutdown_limit: Duration,
}

impl Default for Options {
    /// The queue `default`, 10 tasks at a time, a lease of 30 s, 15 s to stop; the name has the number of the process.
    fn default() -> Options {
        Options {
            name: format!("worker, process {} ({})", std::process::id(), Uuid::now_v7().simple()),
            queues: vec!["default".to_owned()],
            concurrency: 10,
            lease: Duration::from_secs(30),
            shutdown_limit: Duration::from_secs(15),
        }
    }
}

/// Claims tasks and calls the handler for each, until `shutdown`.
///
/// Handlers run as tasks of the runtime, each in a span `task`. What a handler returns is the result: an object becomes
/// the metadata of the transition to `success`, another value its key `result`.
///
/// At `shutdown` the worker claims nothing more and waits for its handlers, up to
/// [`shutdown_limit`](Options::shutdown_limit). Then it tells them to stop ([`Cancellation`]), drops those that run a
/// second later, and releases their tasks: the attempts do not count. If the future of this function is dropped,
/// handlers are dropped, and the leases of their tasks run out.
///
/// The worker has three connections. The role needs EXECUTE on the functions of claims, as `workflow_writer` has it.
///
/// # Errors
/// Returns [`Error::Invalid`] if the database refuses the options, and the error 22021 if a name has a character that it
/// does not store. All other errors of the server are waited out.
pub async fn run<H, F, T>(
    server: PostgresServer,
    options: Options,
    handler: H,
    shutdown: CancellationToken,
) -> Result<(), Error>
where
    H: Fn(ClaimedTask, Cancellation) -> F + Send + Sync + 'static,
    F: Future<Output = Result<T, Failure>> + Send,
    T: Serialize + Send,
{
    tracing::info!("worker \"{}\" takes tasks of {} at {server}", options.name, options.queues.join(", "));
    let held = Held::default();
    let _heartbeat = heartbeat::start(server.clone(), options.lease, held.clone())
        .map_err(|error| Error::Unknown(format!("no thread for heartbeats: {error}")))?;
    let (ends, ended) = mpsc::unbounded_channel();
    // A set ends its tasks when it is dropped.
    let mut completing = JoinSet::new();
    completing.spawn(Completer::new(server.clone(), held.clone(), options.lease).run(ended));

    let mut fleet = Fleet { handler: Arc::new(handler), handlers: JoinSet::new(), held: held.clone(), ends };
    let mut claimer = Claimer::new(server.clone(), held.clone());
    let outcome = fleet.work(&mut claimer, &options, &shutdown).await;
    fleet.stop(options.shutdown_limit).await;
    drop(fleet);
    if timeout(REPORT_LIMIT, completing.join_next()).await.is_err() {
        tracing::warn!("cannot report how tasks ended: the leases of their claims will run out");
    }
    if timeout(REPORT_LIMIT, completer::release(claimer.into_link(), &held)).await.is_err() {
        tracing::warn!("cannot release all unfinished tasks: the leases of their claims will run out");
    }
    tracing::info!("worker \"{}\" has stopped", options.name);
    outcome
}

/// The running handlers.
struct Fleet<H> {
    handler: Arc<H>,
    handlers: JoinSet<()>,
    held: Held,
    ends: mpsc::UnboundedSender<Ended>,
}

impl<H, F, T> Fleet<H>
where
    H: Fn(ClaimedTask, Cancellation) -> F + Send + Sync + 'static,
    F: Future<Output = Result<T, Failure>> + Send,
    T: Serialize + Send,
{
    /// Claims tasks and starts their handlers.
    async fn work(
        &mut self,
        claimer: &mut Claimer,
        options: &Options,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let places = Arc::new(Semaphore::new(options.concurrency.clamp(1, MOST)));
        while let Some(mut free) = shutdown.run_until_cancelled(free_places(&places)).await {
            // The results of handlers that have ended.
            while self.handlers.try_join_next().is_some() {}
            let wanted = ClaimTasks {
                worker: options.name.clone(),
                queues: options.queues.clone(),
                max: i32::try_from(free.num_permits()).unwrap_or(i32::MAX),
                lease: options.lease,
            };
            for task in claimer.next(&wanted, shutdown).await? {
                let cancellation = self.held.add(&task);
                // A task that came at the shutdown is released.
                if let (false, Some(place)) = (shutdown.is_cancelled(), free.split(1)) {
                    self.start(task, cancellation, place);
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, task: ClaimedTask, cancellation: Cancellation, place: OwnedSemaphorePermit) {
        // A handler that blocks its thread can outlast the worker, whose reports must not wait for it.
        let (handler, ends) = (self.handler.clone(), self.ends.downgrade());
        let running = self.held.run(&task.claim);
        let ClaimedTask { id, task_id, try_number, dag_run_id, .. } = &task;
        let span = tracing::info_span!("task", %id, task_id, try_number, %dag_run_id);
        let handling = async move {
            let end = handling::handle(&*handler, task, cancellation).await;
            if let (Some(end), Some(ends)) = (end, ends.upgrade()) {
                running.ended();
                // It fails only if the worker is dropped.
                let _ = ends.send(Ended::new(end, place));
            }
        };
        self.handlers.spawn(handling.instrument(span));
    }

    /// Waits for the handlers, then tells them to stop, then drops them.
    async fn stop(&mut self, limit: Duration) {
        let handlers = &mut self.handlers;
        if timeout(limit, join_all(handlers)).await.is_ok() {
            return;
        }
        tracing::warn!("{} handlers run after {:.1} s: telling them to stop", handlers.len(), limit.as_secs_f64());
        self.held.cancel_all(CancelReason::Shutdown);
        if timeout(CANCEL_LIMIT, join_all(handlers)).await.is_err() {
            // One that blocks its thread cannot be dropped.
            let _ = timeout(CANCEL_LIMIT, handlers.shutdown()).await;
        }
    }
}

async fn join_all(handlers: &mut JoinSet<()>) {
    while handlers.join_next().await.is_some() {}
}

/// Takes all free places, as soon as there is one.
async fn free_places(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    // The semaphore is never closed.
    let Ok(mut free) = places.clone().acquire_owned().await else { std::future::pending().await };
    let others = u32::try_from(places.available_permits()).unwrap_or(u32::MAX);
    if let Ok(others) = places.clone().try_acquire_many_owned(others) {
        free.merge(others);
    }
    free
}
