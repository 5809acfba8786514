//! Keeping the counts per state close to the present, so that reading them stays cheap.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::connect::{PostgresServer, within};
use crate::outage::Outage;

/// How often: what has happened since is what a reader of the counts has to add up.
const INTERVAL: Duration = Duration::from_secs(10);
/// The first time, all rows are counted.
const LIMIT: Duration = Duration::from_secs(600);

/// Calls `workflow.fold_state_counts()` every 10 s, until `shutdown`. Any number may: they take turns.
///
/// ```no_run
/// # async fn example() -> Result<(), pg_workflow_client::Error> {
/// use pg_workflow_client::{connect::PostgresServer, counts};
/// use tokio_util::sync::CancellationToken;
///
/// counts::keep(&PostgresServer::parse("postgres://relay@db.example/workflow")?, CancellationToken::new()).await;
/// # Ok(())
/// # }
/// ```
pub async fn keep(server: &PostgresServer, shutdown: CancellationToken) {
    let keeping = async {
        let mut outage = Outage::of("what keeps the counts per state");
        loop {
            if let Err(error) = fold(server, &mut outage).await {
                outage.began(&error);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    shutdown.run_until_cancelled(keeping).await;
}

/// For as long as the connection holds.
async fn fold(server: &PostgresServer, outage: &mut Outage) -> Result<(), Error> {
    let client = server.connect().await?;
    // What a crash undoes is folded again.
    within(LIMIT, client.batch_execute("SET synchronous_commit = off")).await?;
    loop {
        within(LIMIT, client.batch_execute("SELECT workflow.fold_state_counts()")).await?;
        outage.ended();
        tokio::time::sleep(INTERVAL).await;
    }
}
