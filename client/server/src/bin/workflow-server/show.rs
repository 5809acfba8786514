//! `workflow-server show`.

mod dag;
mod run;
mod task;

use std::io;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::Database;
use crate::lookup::{self, Found};
use crate::output::{Format, Output, visible};
use crate::table::{Cell, Table, whole};

/// Show a DAG, a run or a task with its details
///
/// For a DAG: its latest runs. For a run: its tasks, failed ones first, and their count by state. For a task: the end of
/// its log and its latest transitions.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server show etl
  workflow-server show 01a20acc-4268-71f9-9cd2-3ff43d35c22a
  workflow-server show etl --json | jq .latest_runs")]
pub struct Arguments {
    /// Id of a DAG, a run or a task, or name of a DAG
    #[arg(value_name = "ID|NAME")]
    entity: String,

    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let is_json = arguments.format.json;
    match lookup::find(&client, &arguments.entity).await? {
        Found::Dag(dag) => dag::show(&client, dag, output, is_json).await?,
        Found::Run(run) => run::show(&client, run, output, is_json).await?,
        Found::Task(task) => task::show(&client, task, output, is_json).await?,
    }
    Ok(output.flush()?)
}

/// A row as in the HTTP API, with its kind and related rows.
#[derive(Serialize)]
struct WithRelated<T, R> {
    entity_type: &'static str,
    #[serde(flatten)]
    row: T,
    #[serde(flatten)]
    related: R,
}

/// Prints the fields of a row, one per line.
fn print_fields(output: &mut Output, fields: Vec<(&'static str, Cell)>) -> io::Result<()> {
    let rows: Vec<Vec<Cell>> = fields.into_iter().map(|(name, value)| vec![Cell::from(name), value]).collect();
    Table::new(vec![whole("FIELD"), whole("VALUE")]).without_header().print(output, &rows)
}

/// Prints a text of one or more lines below a heading.
fn print_text(output: &mut Output, heading: &str, text: &str) -> io::Result<()> {
    output.heading(heading)?;
    text.lines().try_for_each(|line| output.line(&visible(line)))
}
