//! The start of a program: connect, check that the extension is installed, create the DAGs.
//!
//! ```sh
//! DATABASE_URL=postgres://… cargo run --example initialize
//! ```
//!
//! Run it as often as you like: DAGs that exist stay as they are.

use std::error::Error;

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::pool::{Options, Pool};
use pg_workflow_client::{Dags, Error as WorkflowError, NewDag};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = PostgresServer::parse(&std::env::var("DATABASE_URL")?)?.with_application_name("initialize");
    println!("connecting to {server}");
    let pool = Pool::new(server, Options { max_connections: 4, ..Options::default() });
    let connection = pool.get().await.map_err(explain)?;

    let version =
        connection.query_one("SELECT workflow.version()", &[]).await.map_err(|error| explain(error.into()))?;
    println!("pg_workflow {} is there", version.get::<_, String>(0));

    let wanted = [
        NewDag { schedule: Some("@daily".into()), tags: vec!["sales".into()], ..NewDag::named("orders") },
        NewDag { description: Some("by hand only".into()), is_paused: true, ..NewDag::named("backfill") },
    ];
    let dags = Dags::new(&connection);
    for dag in &wanted {
        let id = match dags.create(dag).await {
            Ok(id) => id,
            // An earlier start created it.
            Err(WorkflowError::AlreadyExists { .. }) => dags.get_by_name(&dag.name).await?.ok_or("it was deleted")?.id,
            Err(error) => return Err(explain(error).into()),
        };
        println!("DAG {}: {id}", dag.name);
    }
    Ok(())
}

/// The error, and the hint for an operator.
fn explain(error: WorkflowError) -> String {
    format!("{error}. {}", error.hint())
}
