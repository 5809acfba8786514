//! Periodic maintenance: refreshes the stored counts and creates partitions.

use std::time::Duration;

use pg_workflow_client::tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use pg_workflow_client::Error;
use pg_workflow_client::connect::{PostgresServer, within};
use pg_workflow_client::outage::Outage;

/// How often counts are folded: what has happened since is what a reader of the counts has to add up.
const INTERVAL: Duration = Duration::from_secs(10);
/// So often of those times it is seen to the partitions. A few steps at a change of the month, which may have to be tried again.
const PARTITIONS_EVERY: u32 = 6;
/// The first time, all rows are counted.
const LIMIT: Duration = Duration::from_secs(600);

/// Calls `workflow.fold_state_counts()` every 10 s, and `workflow.open_partitions()` every minute, until `shutdown`. Any number
/// of programs may: they take turns.
///
/// ```no_run
/// # async fn example() -> Result<(), pg_workflow_client::Error> {
/// use pg_workflow_client::connect::PostgresServer;
/// use pg_workflow_server::maintenance;
/// use tokio_util::sync::CancellationToken;
///
/// maintenance::run(&PostgresServer::parse("postgres://relay@db.example/workflow")?, CancellationToken::new()).await;
/// # Ok(())
/// # }
/// ```
pub async fn run(server: &PostgresServer, shutdown: CancellationToken) {
    let keeping = async {
        let mut outage = Outage::of("the database of the maintenance");
        loop {
            if let Err(error) = while_connected(server, &mut outage).await {
                outage.began(&error);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    shutdown.run_until_cancelled(keeping).await;
}

async fn while_connected(server: &PostgresServer, outage: &mut Outage) -> Result<(), Error> {
    let client = server.connect().await?;
    // What a crash undoes is done again.
    within(LIMIT, client.batch_execute("SET synchronous_commit = off")).await?;
    for turn in 0.. {
        within(LIMIT, client.batch_execute("SELECT workflow.fold_state_counts()")).await?;
        if turn % PARTITIONS_EVERY == 0 {
            open_partitions(&client).await?;
        }
        outage.ended();
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

/// Not where the extension has none (version 0.1.0), nor where our role may not: then somebody else does it.
async fn open_partitions(client: &Client) -> Result<(), Error> {
    let may = "SELECT pg_catalog.has_function_privilege(
                   pg_catalog.to_regprocedure('workflow.open_partitions(text)'), 'EXECUTE')";
    let row = within(LIMIT, client.query_one(may, &[])).await?;
    if row.try_get::<_, Option<bool>>(0)? != Some(true) {
        return Ok(());
    }
    let sql = "SELECT partition, outcome FROM workflow.open_partitions()";
    for row in within(LIMIT, client.query(sql, &[])).await? {
        let (partition, outcome): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        tracing::info!("partition {partition}: {outcome}");
    }
    Ok(())
}
