//! `workflow-server history`.

use anyhow::Result;
use clap::Args;
use pg_workflow_client::event::Event;
use pg_workflow_client::list::{HistoryFilter, HistorySort, ListOptions, OrderBy};
use pg_workflow_client::{Dags, History};
use uuid::Uuid;

use crate::Database;
use crate::failure::Failure;
use crate::list::{Part, Printed, order_parser};
use crate::output::{Format, Output};
use crate::table::{Cell, Column, Table, elastic, whole};
use crate::time::format_time;

/// Show the events of a run or a task, newest first
///
/// Works for deleted runs and tasks, too. --order-by id shows the oldest first.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server history 01a20acc-426c-72e1-b99d-ae799985b4ee
  workflow-server history 01a20acc-426c-72e1-b99d-ae799985b4ee --order-by id")]
pub struct Arguments {
    /// Id of a run or a task
    id: Uuid,

    #[command(flatten)]
    database: Database,

    /// Order; "-" means descending
    #[arg(long, value_name = "ORDER", allow_hyphen_values = true, value_parser = order_parser::<HistorySort>())]
    order_by: Option<OrderBy<HistorySort>>,

    #[command(flatten)]
    part: Part,

    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let id = arguments.id;
    let history = History::new(&client);
    let filter = HistoryFilter { entity_id: Some(id), ..HistoryFilter::default() };
    // Each entity has at least the event of its creation, unless it was purged.
    if arguments.part.is_first()
        && history.list(&filter, &ListOptions { limit: 1, ..ListOptions::default() }).await?.items.is_empty()
    {
        return Err(match Dags::new(&client).get(id).await? {
            Some(_) => Failure::not_found(format!(
                "{id} is a DAG, and DAGs have no history. List its runs with: workflow-server list runs --dag {id}"
            )),
            None => Failure::not_found(format!("no history of {id}. List runs with: workflow-server list runs")),
        });
    }
    let printed = Printed { name: "events", is_json: arguments.format.json, table: Table::new(columns()) };
    arguments
        .part
        .print(
            output,
            printed,
            arguments.order_by,
            async |options| history.list(&filter, options).await,
            async |events| Ok(events.iter().map(row).collect()),
        )
        .await
}

pub fn columns() -> Vec<Column> {
    vec![whole("CHANGED"), whole("VERSION"), whole("FROM"), whole("TO"), elastic("ACTOR"), elastic("METADATA")]
}

pub fn row(event: &Event) -> Vec<Cell> {
    let metadata = Some(event.metadata.get()).filter(|metadata| *metadata != "{}");
    vec![
        Cell::from(format_time(event.changed_at)),
        Cell::from(event.version.to_string()),
        Cell::optional(event.old_state.map(|state| state.as_str())),
        event.new_state.map_or_else(|| Cell::from("deleted"), Cell::from),
        Cell::from(event.actor.as_str()),
        Cell::optional(metadata),
    ]
}
