use anyhow::Result;
use clap::Args;
use pg_workflow_client::list::{OrderBy, TaskInstanceFilter, TaskInstanceSort};
use pg_workflow_client::{State, TaskInstance, TaskInstances};
use uuid::Uuid;

use super::{Part, Printed, order_parser, state_parser};
use crate::output::{Format, Output};
use crate::table::{Cell, Column, Table, elastic, whole};
use crate::time::{duration, elapsed, second_or_none};
use crate::{Database, lookup};

/// List tasks, newest first; tasks of a run by name
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server list tasks --state failed,upstream_failed
  workflow-server list tasks --run 01a20acc-4268-71f9-9cd2-3ff43d35c22a --all")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Only tasks of this run
    #[arg(long, value_name = "ID")]
    run: Option<Uuid>,

    /// Only in these states
    #[arg(long, value_delimiter = ',', value_name = "STATE,…", value_parser = state_parser())]
    state: Vec<State>,

    /// Only tasks with this name; without --run, searches run after run, newest first
    #[arg(long, value_name = "NAME")]
    task_id: Option<String>,

    /// Order; "-" means descending
    #[arg(long, value_name = "ORDER", allow_hyphen_values = true, value_parser = order_parser::<TaskInstanceSort>())]
    order_by: Option<OrderBy<TaskInstanceSort>>,

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
    let filter = TaskInstanceFilter { dag_run_id: arguments.run, states: arguments.state, task_id: arguments.task_id };
    let tasks = TaskInstances::new(&client);
    let shows_run = arguments.run.is_none();
    let printed = Printed { name: "tasks", is_json: arguments.format.json, table: Table::new(columns(shows_run)) };
    arguments
        .part
        .print(
            output,
            printed,
            arguments.order_by,
            async |options| tasks.list(&filter, options).await,
            async |tasks: &[TaskInstance]| Ok(tasks.iter().map(|task| row(task, shows_run)).collect()),
        )
        .await
}

pub fn columns(shows_run: bool) -> Vec<Column> {
    let mut columns = vec![
        elastic("TASK"),
        whole("STATE"),
        whole("ATTEMPT"),
        whole("STARTED"),
        whole("DURATION"),
        elastic("ERROR"),
        whole("ID"),
    ];
    if shows_run {
        columns.push(whole("RUN"));
    }
    columns
}

pub fn row(task: &TaskInstance, shows_run: bool) -> Vec<Cell> {
    let duration = task.duration.map(duration).or_else(|| elapsed(task.state, task.start_date, task.end_date));
    let mut row = vec![
        Cell::from(task.task_id.as_str()),
        Cell::from(task.state),
        Cell::from(format!("{}/{}", task.try_number, task.max_tries)),
        Cell::optional(second_or_none(task.start_date)),
        Cell::optional(duration),
        Cell::optional(task.error.as_ref()),
        Cell::from(task.id.to_string()),
    ];
    if shows_run {
        row.push(Cell::from(task.dag_run_id.to_string()));
    }
    row
}
