//! `workflow-server why`.

use anyhow::Result;
use clap::Args;
use pg_workflow_client::TaskInstances;
use pg_workflow_client::model::PendingParent;
use uuid::Uuid;

use crate::Database;
use crate::output::{Format, Output, sanitize};
use crate::table::{Cell, elastic, print_all, whole};
use crate::time::format_time;

/// Show which tasks a task waits for
///
/// They are the parents that have not ended. Prints no row if the task does not wait, and then its state to standard error.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server why 01a20acc-4268-71f9-9cd2-3ff43d35c22a
  workflow-server why 01a20acc-4268-71f9-9cd2-3ff43d35c22a --json | jq -r .task_id")]
pub struct Arguments {
    /// Id of the task
    #[arg(value_name = "TASK")]
    id: Uuid,

    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    format: Format,
}

fn row(parent: &PendingParent) -> Vec<Cell> {
    let PendingParent { id, task_id, state, since, .. } = parent;
    vec![Cell::from(task_id.as_str()), Cell::from(*state), Cell::from(format_time(*since)), Cell::from(id.to_string())]
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let tasks = TaskInstances::new(&client);
    let parents = tasks.why_waiting(arguments.id).await?;
    let columns = vec![elastic("WAITS FOR"), whole("STATE"), whole("SINCE"), whole("ID")];
    print_all(output, &arguments.format, columns, &parents, row)?;
    if parents.is_empty()
        && let Some(task) = tasks.get(arguments.id).await?
    {
        let error = task.error.map_or(String::new(), |error| format!(": {error}"));
        eprintln!("{}", sanitize(&format!("{} does not wait for a task; it is {}{error}", task.task_id, task.state)));
    }
    Ok(())
}
