//! Workers of the library: each task once, through errors, panics, lost claims, outages and shutdowns.

mod connections;
mod ends;
mod faults;
mod leases;
mod refusals;
mod shutdown;

use super::*;
use pg_workflow_client::worker::{self, Cancellation, Options as Worker};
use pg_workflow_client::{ClaimedTask, Claims, Error, Failure, State, TaskInstance};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::util::SubscriberInitExt;

/// A worker that takes tasks until it is stopped.
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    fn start<F, T>(
        db: &Db,
        options: Worker,
        handler: impl Fn(ClaimedTask, Cancellation) -> F + Send + Sync + 'static,
    ) -> Running
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
        T: serde::Serialize + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let server =
            server(db.url()).with_application_name("worker").with_settings("-c pg_workflow.max_field_size=2MB");
        let task = tokio::spawn(worker::run(server, options, handler, shutdown.clone()));
        Running { shutdown, task }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("it does not panic").expect("the options are valid");
    }
}

/// Options of a worker whose leases are short.
fn short() -> Worker {
    Worker { lease: Duration::from_secs(1), ..Worker::default() }
}

/// Creates tasks in the queue `default`.
async fn enqueue(client: &Client, names: &[&str], max_tries: i32) -> Vec<Uuid> {
    let (_, run, _) = new_tasks(client, &[]).await;
    let queue = Some("default".to_owned());
    let tasks = NewTaskInstances { max_tries, queue, ..NewTaskInstances::of(run, names.iter().copied()) };
    TaskInstances::new(client).create_many(&tasks).await.expect("tasks")
}

async fn enqueue_many(client: &Client, count: usize) -> Vec<Uuid> {
    let names: Vec<String> = (0..count).map(|n| format!("task {n}")).collect();
    enqueue(client, &names.iter().map(String::as_str).collect::<Vec<_>>(), 1).await
}

async fn get(client: &Client, task: Uuid) -> TaskInstance {
    TaskInstances::new(client).get(task).await.expect("an answer").expect("it exists")
}

async fn wait_for_state(client: &Client, task: Uuid, state: State) -> TaskInstance {
    wait_for(state.as_str(), async || get(client, task).await.state == state).await;
    get(client, task).await
}

async fn count(client: &Client, condition: &str) -> usize {
    let sql = format!("SELECT count(*) FROM workflow.task_instances WHERE {condition}");
    let count: i64 = client.query_one(&sql, &[]).await.expect("a count").get(0);
    count as usize
}

/// How often each task was handled.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<HashMap<Uuid, usize>>>);

impl Calls {
    fn note(&self, task: &ClaimedTask) {
        *self.0.lock().unwrap().entry(task.id).or_default() += 1;
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn assert_each_once(&self) {
        let calls = self.0.lock().unwrap();
        let often: Vec<_> = calls.iter().filter(|(_, count)| **count != 1).collect();
        assert!(often.is_empty(), "{often:?}");
    }
}

/// Runs a future in this thread, and notes what it logs.
fn log_during(work: impl Future<Output = ()>) -> Log {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _log = subscriber.set_default();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    log
}

#[test]
fn worker_has_no_more_tasks_than_places_and_runs_each_once() {
    let db = Db::new();
    run(async {
        let client = server(db.url()).connect().await.unwrap();
        let calls = Calls::default();
        let running = ["one", "two"].map(|name| (name, Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))));
        let workers = running.each_ref().map(|(name, now, most)| {
            let (calls, now, most) = (calls.clone(), now.clone(), most.clone());
            let options = Worker { name: (*name).to_owned(), concurrency: 4, ..Worker::default() };
            Running::start(&db, options, move |task, _| {
                let (calls, now, most) = (calls.clone(), now.clone(), most.clone());
                async move {
                    calls.note(&task);
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                }
            })
        });
        enqueue_many(&client, 300).await;
        let mut most_claimed = 0;
        wait_for("all tasks", async || {
            for name in ["one", "two"] {
                most_claimed = most_claimed.max(count(&client, &format!("worker = '{name}'")).await);
            }
            count(&client, "state = 'success'").await == 300
        })
        .await;
        for worker in workers {
            worker.stop().await;
        }
        calls.assert_each_once();
        assert_eq!(count(&client, "version = 3 AND try_number = 1").await, 300);
        assert!(most_claimed <= 4, "{most_claimed}");
        let most = running.map(|(_, _, most)| most.load(Ordering::SeqCst));
        assert_eq!(most, [4, 4], "both work, in all their places");
    });
}

#[test]
fn worker_returns_an_error_if_the_options_are_invalid() {
    let db = Db::new();
    run(async {
        let options = Worker { lease: Duration::ZERO, ..Worker::default() };
        let worker = Running::start(&db, options, |_, _| async { Ok(()) });
        let error = worker.task.await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Invalid { argument, .. } if argument == "lease"), "{error:?}");
    });
}
