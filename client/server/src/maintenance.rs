//! Periodic maintenance: refreshes the stored counts, ends claims that have run out, and creates partitions.

use std::time::Duration;

use pg_workflow_client::connect::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::outage::Outage;
use pg_workflow_client::tokio_postgres::Row;
use pg_workflow_client::{Error, session};

/// Interval of refreshing the stored counts, and of ending claims. Readers of the counts add up all later transitions
/// themselves, and waiting workers end claims each second.
const INTERVAL: Duration = Duration::from_secs(10);
/// Number of refreshes between two checks of the partitions. A change of the month needs several checks.
const REFRESHES_PER_CHECK: u32 = 6;
/// Number of refreshes without effect after which the counts are compared.
const REFUSALS: u32 = 30;
/// The first refresh counts all rows.
const LIMIT: Duration = Duration::from_secs(600);

/// Calls `workflow.fold_state_counts()` and `workflow.reap_claims()` every 10 s, and `workflow.open_partitions()` every
/// minute, until `shutdown`.
///
/// Several processes can do so at the same time: each leaves what another one has locked.
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
        let mut lacking = Lacking::default();
        loop {
            if let Err(error) = maintain(server, &mut outage, &mut lacking).await {
                outage.began(&error);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    shutdown.run_until_cancelled(maintaining).await;
}

/// Rights that the role lacks, each logged once.
#[derive(Default)]
struct Lacking {
    partitions: bool,
    claims: bool,
}

async fn maintain(server: &PostgresServer, outage: &mut Outage, lacking: &mut Lacking) -> Result<(), Error> {
    // A crash can lose the work: it is repeated.
    let client = server.clone().with_fixed_settings().with_setting("synchronous_commit", "off").connect().await?;
    let mut unfolded = 0;
    for refresh in 0.. {
        let folded = one(&client, "SELECT workflow.fold_state_counts()").await?.try_get(0)?;
        unfolded = if folded { 0 } else { unfolded + 1 };
        if unfolded == REFUSALS && counts_are_old(&client).await? {
            tracing::warn!(
                "stored counts were not refreshed for {} s, so state_counts gets slower. Look for a session that locks \
                 workflow.state_count_place; on a subscriber, call finish_copy() when the copy is complete.",
                (INTERVAL * REFUSALS).as_secs()
            );
        }
        reap_claims(&client, &mut lacking.claims).await?;
        if refresh % REFRESHES_PER_CHECK == 0 {
            open_partitions(&client, &mut lacking.partitions).await?;
        }
        outage.ended();
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

async fn query(client: &Client, sql: &str) -> Result<Vec<Row>, Error> {
    session::once_in(client, LIMIT, sql, &[]).await
}

async fn one(client: &Client, sql: &str) -> Result<Row, Error> {
    query(client, sql).await?.pop().ok_or_else(|| Error::Unknown("no row".to_owned()))
}

/// Returns whether there are events since the last refresh.
async fn counts_are_old(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT workflow.last_event_id() > floor_id FROM workflow.state_count_place";
    match query(client, sql).await {
        Ok(rows) => Ok(rows.first().and_then(|row| row.get(0)).unwrap_or(false)),
        // The role may not read it, or the extension is older.
        Err(error) if error.code().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Ends claims whose lease or timeout has run out, until none is left. Does nothing if the extension has no claims (before
/// version 0.3.0) or the role may not change tasks, which is logged once.
async fn reap_claims(client: &Client, lacks_right: &mut bool) -> Result<(), Error> {
    let has_right = "SELECT pg_catalog.to_regprocedure('workflow.reap_claims(integer)') IS NOT NULL,
                   pg_catalog.has_column_privilege('workflow.task_instances', 'state', 'UPDATE'), current_user::text";
    let row = one(client, has_right).await?;
    let (exists, has_right): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    let known = std::mem::replace(lacks_right, exists && !has_right);
    if *lacks_right && !known {
        tracing::warn!(
            "role \"{}\" may not end claims: no UPDATE on workflow.task_instances. Grant it workflow_writer, or let workers \
             end them.",
            row.try_get::<_, &str>(2)?
        );
    }
    while exists && has_right && reap_some(client).await? {}
    Ok(())
}

/// Ends some claims; returns false if none is left.
async fn reap_some(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT id, worker, reason, state FROM workflow.reap_claims()";
    let reaped = query(client, sql).await?;
    for row in &reaped {
        let (id, worker): (Uuid, &str) = (row.try_get(0)?, row.try_get(1)?);
        let (reason, state): (&str, &str) = (row.try_get(2)?, row.try_get(3)?);
        tracing::info!("{reason}: task {id} of worker \"{worker}\" is {state}");
    }
    Ok(!reaped.is_empty())
}

/// Creates partitions. Does nothing if the extension has none (version 0.1.0) or the role lacks the right, which is logged
/// once.
async fn open_partitions(client: &Client, lacks_right: &mut bool) -> Result<(), Error> {
    let has_right = "SELECT pg_catalog.has_function_privilege(
                   pg_catalog.to_regprocedure('workflow.open_partitions(text)'), 'EXECUTE'), current_user::text";
    let row = one(client, has_right).await?;
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
    for row in session::alone(client, LIMIT, sql, &[]).await? {
        let (partition, outcome): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        tracing::info!("partition {partition}: {outcome}");
    }
    Ok(())
}
