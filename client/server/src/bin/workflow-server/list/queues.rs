use anyhow::Result;
use clap::Args;
use pg_workflow_client::list::{OrderBy, QueueFilter, QueueSort};
use pg_workflow_client::{Queue, Queues};

use super::{Part, Printed, order_parser};
use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, Column, Table, elastic, whole};
use crate::time::format_optional_time;

/// List queues by name, and count their tasks
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server list queues
  workflow-server list queues --all --json | jq 'select(.ready > 1000) | .name'")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Only queues with this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Order; "-" means descending
    #[arg(long, value_name = "ORDER", allow_hyphen_values = true, value_parser = order_parser::<QueueSort>())]
    order_by: Option<OrderBy<QueueSort>>,

    #[command(flatten)]
    part: Part,

    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let filter = QueueFilter { name: arguments.name };
    let queues = Queues::new(&client);
    let printed = Printed { name: "queues", is_json: arguments.format.json, table: Table::new(columns()) };
    arguments
        .part
        .print(
            output,
            printed,
            arguments.order_by,
            async |options| queues.list(&filter, options).await,
            async |queues: &[Queue]| Ok(queues.iter().map(row).collect()),
        )
        .await
}

fn columns() -> Vec<Column> {
    vec![
        elastic("QUEUE"),
        elastic("TENANT"),
        whole("READY"),
        whole("OLDEST"),
        whole("LATER"),
        whole("PARKED"),
        whole("RUNNING"),
        whole("SLOTS"),
        whole("REFUSED"),
        whole("PAUSED UNTIL"),
    ]
}

fn row(queue: &Queue) -> Vec<Cell> {
    vec![
        Cell::from(queue.name.as_str()),
        Cell::from(queue.tenant.as_str()),
        Cell::from(queue.ready.to_string()),
        Cell::optional(format_optional_time(queue.oldest_ready_at)),
        Cell::from(queue.later.to_string()),
        Cell::from(queue.parked.to_string()),
        Cell::from(queue.running.to_string()),
        Cell::optional(queue.slots.map(|slots| slots.to_string())),
        Cell::optional(queue.refused.map(|count| count.to_string())),
        Cell::optional(format_optional_time(queue.paused_until)),
    ]
}
