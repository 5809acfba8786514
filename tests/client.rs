//! The client library, against real servers.

mod claims;
mod dependencies;
mod errors;
mod examples;
mod hosts;
mod lists;
mod plans;
mod pool;
mod replica;
mod repositories;
mod tls;
mod worker;

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::pool::{Connection, Options, Pool};
use pg_workflow_client::session::Session;
use pg_workflow_client::{DagRuns, Dags, NewDag, NewDagRun, NewTaskInstances, TaskInstances};
use pg_workflow_tests::*;
use std::future::Future;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Runs a future to its end. The harness's clients block, so a test must use them outside of the future.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(future)
}

fn server(url: &str) -> PostgresServer {
    PostgresServer::parse(url).expect("a connection string")
}

fn pool(url: &str, options: Options) -> Pool {
    Pool::new(server(url), options)
}

/// Returns the id of the process that serves a connection.
async fn backend(connection: &Connection) -> i32 {
    connection.query_one("SELECT pg_backend_pid()", &[]).await.expect("an answer").get(0)
}

/// Returns the port of the server at the other end of a connection.
async fn port(session: &impl Session) -> u16 {
    use tokio_postgres::GenericClient;
    let row = session.client().query_one("SELECT inet_server_port()", &[]).await.expect("an answer");
    u16::try_from(row.get::<_, i32>(0)).expect("a port")
}

/// Creates a DAG, a run and these tasks.
async fn new_tasks(session: &impl Session, names: &[&str]) -> (Uuid, Uuid, Vec<Uuid>) {
    let dag = Dags::new(session).create(&NewDag::named(Uuid::new_v4().to_string())).await.expect("a DAG");
    let run = DagRuns::new(session).create(&NewDagRun::of(dag)).await.expect("a run");
    let tasks = NewTaskInstances::of(run, names.iter().copied());
    (dag, run, TaskInstances::new(session).create_many(&tasks).await.expect("tasks"))
}

/// Waits as [`wait_until`] does, for an asynchronous condition.
async fn wait_for(goal: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain: {goal}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
