use anyhow::Result;
use clap::Args;
use pg_workflow_client::list::{DagFilter, DagSort, OrderBy};
use pg_workflow_client::{Dag, Dags};

use super::{Part, Printed, order_parser};
use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, Table, elastic, whole};
use crate::time::second;

/// List DAGs, newest first
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server list dags --tag daily --order-by name
  workflow-server list dags --paused --all --json | jq -r .name")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Only DAGs whose name starts with TEXT
    #[arg(long, value_name = "TEXT")]
    name_prefix: Option<String>,

    /// Only DAGs with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,

    /// Only paused DAGs; with false, only others
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    paused: Option<bool>,

    /// Order; "-" means descending
    #[arg(long, value_name = "ORDER", allow_hyphen_values = true, value_parser = order_parser::<DagSort>())]
    order_by: Option<OrderBy<DagSort>>,

    #[command(flatten)]
    part: Part,

    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let dags = Dags::new(&client);
    let filter = DagFilter {
        name_prefix: arguments.name_prefix,
        tag: arguments.tag,
        paused: arguments.paused,
        ..DagFilter::default()
    };
    let columns =
        vec![elastic("NAME"), elastic("SCHEDULE"), whole("PAUSED"), elastic("TAGS"), whole("CREATED"), whole("ID")];
    let printed = Printed { name: "DAGs", is_json: arguments.format.json, table: Table::new(columns) };
    arguments
        .part
        .print(
            output,
            printed,
            arguments.order_by,
            async |options| dags.list(&filter, options).await,
            async |dags: &[Dag]| Ok(dags.iter().map(row).collect()),
        )
        .await
}

fn row(dag: &Dag) -> Vec<Cell> {
    vec![
        Cell::from(dag.name.as_str()),
        Cell::optional(dag.schedule.as_ref()),
        Cell::from(if dag.is_paused { "yes" } else { "no" }),
        Cell::from(dag.tags.join(",")),
        Cell::from(second(dag.created_at)),
        Cell::from(dag.id.to_string()),
    ]
}
