use std::io;

use anyhow::Result;
use pg_workflow_client::event::{EntityType, Event};
use pg_workflow_client::list::{ClaimFilter, HeldClaim, HeldClaims, ListOptions, OrderBy, TaskLogFilter, TaskLogSort};
use pg_workflow_client::tokio_postgres::Client;
use pg_workflow_client::tokio_postgres::error::SqlState;
use pg_workflow_client::{Dag, DagRun, DagRuns, Dags, Error, History, TaskInstance, TaskLog, TaskLogs};
use serde::Serialize;
use uuid::Uuid;

use super::{WithRelated, print_fields, print_text};
use crate::history;
use crate::output::{Output, sanitize};
use crate::table::{Cell, Table};
use crate::time::{format_duration, format_elapsed, format_optional_time, format_time};

const LINES: u32 = 10;
const TRANSITIONS: i32 = 10;

#[derive(Serialize)]
struct Related {
    /// Null if no worker has claimed it.
    claim: Option<HeldClaim>,
    latest_logs: Vec<TaskLog>,
    latest_history: Vec<Event>,
}

pub async fn show(client: &Client, task: TaskInstance, output: &mut Output, is_json: bool) -> Result<()> {
    let latest =
        ListOptions { limit: LINES, order_by: Some(OrderBy::descending(TaskLogSort::Id)), ..ListOptions::default() };
    let logs = TaskLogs::new(client).list(task.id, &TaskLogFilter::default(), &latest).await?;
    let (has_more, mut latest_logs) = (logs.next_cursor.is_some(), logs.items);
    latest_logs.reverse();
    let latest_history = History::new(client).history(EntityType::TaskInstance, task.id, TRANSITIONS).await?;
    let claim = find_claim(client, task.id).await?;
    if is_json {
        let related = Related { claim, latest_logs, latest_history };
        return Ok(output.json(&WithRelated { entity_type: "task_instance", row: task, related })?);
    }
    let run = DagRuns::new(client).get(task.dag_run_id).await?;
    let dag = match &run {
        Some(run) => Dags::new(client).get(run.dag_id).await?,
        None => None,
    };
    print_row(&task, dag.zip(run), claim, output)?;
    if !latest_logs.is_empty() {
        output.heading(if has_more { "End of the log" } else { "Log" })?;
        latest_logs.iter().try_for_each(|line| print_log(line, output))?;
    }
    output.heading("Latest transitions")?;
    let rows: Vec<Vec<Cell>> = latest_history.iter().map(history::row).collect();
    Table::new(history::columns()).print(output, &rows)?;
    if latest_history.last().is_some_and(|event| event.version > 1) {
        output.line(&format!("… more: workflow-server history {}", task.id))?;
    }
    Ok(())
}

/// Returns the claim of a task, if any. Databases before 0.3.0 have none.
async fn find_claim(client: &Client, id: Uuid) -> Result<Option<HeldClaim>, Error> {
    let of_task = ClaimFilter { id: Some(id), ..ClaimFilter::default() };
    match HeldClaims::new(client).list(&of_task, &ListOptions::default()).await {
        Ok(page) => Ok(page.items.into_iter().next()),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        Err(error) => Err(error),
    }
}

fn print_row(
    task: &TaskInstance,
    of: Option<(Dag, DagRun)>,
    claim: Option<HeldClaim>,
    output: &mut Output,
) -> io::Result<()> {
    let (dag, run) = of.unzip();
    let duration =
        task.duration.map(format_duration).or_else(|| format_elapsed(task.state, task.start_date, task.end_date));
    let mut fields = vec![
        ("task", Cell::from(task.task_id.as_str())),
        ("id", Cell::from(task.id.to_string())),
        ("dag", Cell::optional(dag.map(|dag| dag.name))),
        ("execution date", Cell::optional(run.map(|run| format_time(run.execution_date)))),
        ("run", Cell::from(task.dag_run_id.to_string())),
        ("state", Cell::from(task.state)),
        ("version", Cell::from(task.version.to_string())),
        ("attempt", Cell::from(format!("{} of {}", task.try_number, task.max_tries))),
        ("started", Cell::optional(format_optional_time(task.start_date))),
        ("finished", Cell::optional(format_optional_time(task.end_date))),
        ("duration", Cell::optional(duration)),
        ("created", Cell::from(format_time(task.created_at))),
        ("updated", Cell::from(format_time(task.updated_at))),
    ];
    if let Some(claim) = claim {
        fields.extend([
            ("queue", Cell::optional(claim.queue)),
            ("worker", Cell::from(claim.worker)),
            ("lease expires", Cell::from(format_time(claim.lease_expires_at))),
            ("times out", Cell::optional(format_optional_time(claim.times_out_at))),
            ("cancel requested", Cell::optional(format_optional_time(claim.cancel_requested_at))),
        ]);
    }
    print_fields(output, fields)?;
    task.error.iter().try_for_each(|text| print_text(output, "Error", text))
}

/// Prints a message. Its further lines are indented, which separates it from the next message.
fn print_log(log: &TaskLog, output: &mut Output) -> io::Result<()> {
    let mut lines = log.message.lines();
    let first = sanitize(lines.next().unwrap_or_default());
    output.line(&format!(
        "{}  attempt {}  {:<8}  {first}",
        format_time(log.logged_at),
        log.try_number,
        log.level.as_str()
    ))?;
    lines.try_for_each(|line| output.line(&format!("    {}", sanitize(line))))
}
