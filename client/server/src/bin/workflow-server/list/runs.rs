use std::collections::HashMap;

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::Args;
use pg_workflow_client::list::{DagRunFilter, DagRunSort, OrderBy};
use pg_workflow_client::tokio_postgres::Client;
use pg_workflow_client::{DagRun, DagRuns, Dags, Error, State};
use uuid::Uuid;

use super::{Part, Printed, order_parser, state_parser};
use crate::output::{Format, Output};
use crate::table::{Cell, Column, Table, elastic, whole};
use crate::time::{elapsed, parse_time, second, second_or_none};
use crate::{Database, lookup};

/// List runs, newest first
///
/// With --dag, --since or --until: latest execution date first.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server list runs --dag etl --state failed,running
  workflow-server list runs --since 2h --state failed --json | jq -r .id")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Only runs of this DAG
    #[arg(long, value_name = "NAME|ID")]
    dag: Option<String>,

    /// Only in these states
    #[arg(long, value_delimiter = ',', value_name = "STATE,…", value_parser = state_parser())]
    state: Vec<State>,

    /// Earliest execution date: 2026-11-24, 2026-11-24T03:00:00Z, or an age: 90s, 30m, 2h, 7d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<DateTime<Utc>>,

    /// Only execution dates before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<DateTime<Utc>>,

    /// Order; "-" means descending
    #[arg(long, value_name = "ORDER", allow_hyphen_values = true, value_parser = order_parser::<DagRunSort>())]
    order_by: Option<OrderBy<DagRunSort>>,

    #[command(flatten)]
    part: Part,

    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let dag = match &arguments.dag {
        Some(name_or_id) => Some(lookup::find_dag(&client, name_or_id).await?),
        None => None,
    };
    let filter = DagRunFilter {
        dag_id: dag.map(|dag| dag.id),
        states: arguments.state,
        execution_date_gte: arguments.since,
        execution_date_lt: arguments.until,
    };
    let runs = DagRuns::new(&client);
    let printed = Printed { name: "runs", is_json: arguments.format.json, table: Table::new(columns()) };
    arguments
        .part
        .print(
            output,
            printed,
            arguments.order_by,
            async |options| runs.list(&filter, options).await,
            async |runs: &[DagRun]| {
                let names = read_names(&client, runs).await?;
                Ok(runs.iter().map(|run| row(run, names.get(&run.dag_id).map(String::as_str))).collect())
            },
        )
        .await
}

/// Reads the names of the DAGs of these runs.
async fn read_names(client: &Client, runs: &[DagRun]) -> Result<HashMap<Uuid, String>, Error> {
    let mut ids: Vec<Uuid> = runs.iter().map(|run| run.dag_id).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(Dags::new(client).get_many(&ids).await?.into_iter().map(|dag| (dag.id, dag.name)).collect())
}

pub fn columns() -> Vec<Column> {
    vec![elastic("DAG"), whole("EXECUTION DATE"), whole("STATE"), whole("STARTED"), whole("DURATION"), whole("ID")]
}

pub fn row(run: &DagRun, dag: Option<&str>) -> Vec<Cell> {
    vec![
        Cell::optional(dag),
        Cell::from(second(run.execution_date)),
        Cell::from(run.state),
        Cell::optional(second_or_none(run.start_date)),
        Cell::optional(elapsed(run.state, run.start_date, run.end_date)),
        Cell::from(run.id.to_string()),
    ]
}
