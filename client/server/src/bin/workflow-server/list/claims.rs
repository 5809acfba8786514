use anyhow::Result;
use clap::Args;
use pg_workflow_client::list::{ClaimFilter, ClaimSort, HeldClaim, HeldClaims, OrderBy};
use uuid::Uuid;

use super::{Part, Printed, order_parser};
use crate::output::{Format, Output};
use crate::table::{Cell, Column, Table, elastic, whole};
use crate::time::{format_optional_time, format_time};
use crate::{Database, lookup};

/// List tasks that workers have claimed, newest first
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server list claims --worker w-7
  workflow-server list claims --queue etl --all --json | jq -r .worker | sort | uniq -c")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Only tasks of this run
    #[arg(long, value_name = "ID")]
    run: Option<Uuid>,

    /// Only tasks of this queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,

    /// Only tasks of this worker
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,

    /// Order; "-" means descending
    #[arg(long, value_name = "ORDER", allow_hyphen_values = true, value_parser = order_parser::<ClaimSort>())]
    order_by: Option<OrderBy<ClaimSort>>,

    #[command(flatten)]
    part: Part,

    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    if let Some(id) = arguments.run {
        lookup::require_run(&client, id).await?;
    }
    let filter = ClaimFilter {
        dag_run_id: arguments.run,
        queue: arguments.queue,
        worker: arguments.worker,
        ..ClaimFilter::default()
    };
    let claims = HeldClaims::new(&client);
    let printed = Printed { name: "claims", is_json: arguments.format.json, table: Table::new(columns()) };
    arguments
        .part
        .print(
            output,
            printed,
            arguments.order_by,
            async |options| claims.list(&filter, options).await,
            async |claims: &[HeldClaim]| Ok(claims.iter().map(row).collect()),
        )
        .await
}

fn columns() -> Vec<Column> {
    vec![
        elastic("TASK"),
        elastic("QUEUE"),
        elastic("WORKER"),
        whole("ATTEMPT"),
        whole("CLAIMED"),
        whole("LEASE EXPIRES"),
        whole("TIMES OUT"),
        whole("CANCEL REQUESTED"),
        whole("ID"),
    ]
}

fn row(claim: &HeldClaim) -> Vec<Cell> {
    vec![
        Cell::from(claim.task_id.as_str()),
        Cell::optional(claim.queue.as_ref()),
        Cell::from(claim.worker.as_str()),
        Cell::from(claim.try_number.to_string()),
        Cell::from(format_time(claim.claimed_at)),
        Cell::from(format_time(claim.lease_expires_at)),
        Cell::optional(format_optional_time(claim.times_out_at)),
        Cell::optional(format_optional_time(claim.cancel_requested_at)),
        Cell::from(claim.id.to_string()),
    ]
}
