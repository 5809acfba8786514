use std::io;

use anyhow::Result;
use pg_workflow_client::list::{DagRunFilter, ListOptions};
use pg_workflow_client::tokio_postgres::Client;
use pg_workflow_client::{Dag, DagRun, DagRuns};
use serde::Serialize;

use super::{WithRelated, print_fields, print_text};
use crate::list;
use crate::output::Output;
use crate::table::{Cell, Table};
use crate::time::{second, second_or_none};

const RUNS: u32 = 10;

#[derive(Serialize)]
struct Related {
    latest_runs: Vec<DagRun>,
}

pub async fn show(client: &Client, dag: Dag, output: &mut Output, is_json: bool) -> Result<()> {
    let filter = DagRunFilter { dag_id: Some(dag.id), ..DagRunFilter::default() };
    let runs = DagRuns::new(client).list(&filter, &ListOptions { limit: RUNS, ..ListOptions::default() }).await?;
    if is_json {
        let related = Related { latest_runs: runs.items };
        return Ok(output.json(&WithRelated { entity_type: "dag", row: dag, related })?);
    }
    print_row(&dag, output)?;
    output.heading("Latest runs")?;
    let rows: Vec<Vec<Cell>> = runs.items.iter().map(|run| list::run_row(run, Some(&dag.name))).collect();
    Table::new(list::run_columns()).print(output, &rows)?;
    if rows.is_empty() {
        output.line("none")?;
    }
    if runs.next_cursor.is_some() {
        output.line(&format!("… more: workflow-server list runs --dag {}", dag.id))?;
    }
    Ok(())
}

fn print_row(dag: &Dag, output: &mut Output) -> io::Result<()> {
    print_fields(
        output,
        vec![
            ("dag", Cell::from(dag.name.as_str())),
            ("id", Cell::from(dag.id.to_string())),
            ("schedule", Cell::optional(dag.schedule.as_ref())),
            ("paused", Cell::from(if dag.is_paused { "yes" } else { "no" })),
            ("tags", Cell::from(dag.tags.join(", "))),
            ("start date", Cell::optional(second_or_none(dag.start_date))),
            ("created", Cell::from(second(dag.created_at))),
            ("updated", Cell::from(second(dag.updated_at))),
        ],
    )?;
    dag.description.iter().try_for_each(|text| print_text(output, "Description", text))
}
