//! Periodic maintenance: refreshes the stored counts and creates partitions.

use std::time::Duration;

use pg_workflow_client::tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use pg_workflow_client::Error;
use pg_workflow_client::connect::{PostgresServer, within};
use pg_workflow_client::outage::Outage;

/// Interval of refreshing the stored counts. Readers of the counts add up all later transitions themselves.
const INTERVAL: Duration = Duration::from_secs(10);
/// Number of refreshes between two checks of the partitions. A change of the month needs several checks.
const REFRESHES_PER_CHECK: u32 = 6;
/// The first refresh counts all rows.
const LIMIT: Duration = Duration::from_secs(600);

/// Calls `workflow.fold_state_counts()` every 10 s and `workflow.open_partitions()` every minute, until `shutdown`.
///
/// Several processes can do so at the same time: the functions lock.
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
    let maintaining = async {
        let mut outage = Outage::of("the database for maintenance");
        let mut lacks_right = false;
        loop {
            if let Err(error) = maintain(server, &mut outage, &mut lacks_right).await {
                outage.began(&error);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    shutdown.run_until_cancelled(maintaining).await;
}

async fn maintain(server: &PostgresServer, outage: &mut Outage, lacks_right: &mut bool) -> Result<(), Error> {
    let client = server.connect().await?;
    // A crash can lose the work: it is repeated.
    within(LIMIT, client.batch_execute("SET synchronous_commit = off")).await?;
    for refresh in 0.. {
        within(LIMIT, client.batch_execute("SELECT workflow.fold_state_counts()")).await?;
        if refresh % REFRESHES_PER_CHECK == 0 {
            open_partitions(&client, lacks_right).await?;
        }
        outage.ended();
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

/// Creates partitions. Does nothing if the extension has none (version 0.1.0) or the role lacks the right, which is logged
/// once.
async fn open_partitions(client: &Client, lacks_right: &mut bool) -> Result<(), Error> {
    let has_right = "SELECT pg_catalog.has_function_privilege(
                   pg_catalog.to_regprocedure('workflow.open_partitions(text)'), 'EXECUTE'), current_user::text";
    let row = within(LIMIT, client.query_one(has_right, &[])).await?;
    let known = std::mem::replace(lacks_right, false);
    match row.try_get::<_, Option<bool>>(0)? {
        Some(true) => (),
        Some(false) => {
            *lacks_right = true;
            if !known {
                tracing::warn!(
                    "role \"{}\" may not create partitions: no EXECUTE on workflow.open_partitions(). Grant it \
                     workflow_admin, or call that function regularly as an administrator.",
                    row.try_get::<_, &str>(1)?
                );
            }
            return Ok(());
        }
        None => return Ok(()),
    }
    let sql = "SELECT partition, outcome FROM workflow.open_partitions()";
    for row in within(LIMIT, client.query(sql, &[])).await? {
        let (partition, outcome): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        tracing::info!("partition {partition}: {outcome}");
    }
    Ok(())
}
