//! `workflow-server rerun`.

use anyhow::Result;
use clap::Args;
use pg_workflow_client::model::RerunTask;
use pg_workflow_client::{DagRuns, RerunTasks};
use uuid::Uuid;

use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, elastic, print_all, whole};

/// Run failed tasks of a run again
///
/// With them run those that never ran because of them. They wait for their parents again. What succeeded does not run again.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server rerun 01a20acc-4268-71f9-9cd2-3ff43d35c22a --dry-run
  workflow-server rerun 01a20acc-4268-71f9-9cd2-3ff43d35c22a --task extract --task check")]
pub struct Arguments {
    /// Id of the run
    #[arg(value_name = "RUN")]
    id: Uuid,

    /// Name of a task; without this flag, all that failed
    #[arg(long, value_name = "NAME")]
    task: Vec<String>,

    /// Leave out the tasks that never ran because of these
    #[arg(long)]
    no_downstream: bool,

    /// Change nothing; show what would run
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    format: Format,
}

fn row(task: &RerunTask) -> Vec<Cell> {
    let next = if task.is_ready { "may run" } else { "waits" };
    vec![
        Cell::from(task.task_id.as_str()),
        Cell::from(task.old_state),
        Cell::from(task.new_state),
        Cell::from(next),
        Cell::from(task.id.to_string()),
    ]
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let Arguments { id, task, no_downstream, dry_run, database, format } = arguments;
    let client = database.database_url.connect().await?;
    let which = RerunTasks { tasks: (!task.is_empty()).then_some(task), downstream: !no_downstream, dry_run };
    let tasks = DagRuns::new(&client).rerun_tasks(id, &which).await?;
    let columns = vec![elastic("TASK"), whole("WAS"), whole("IS"), whole("NEXT"), whole("ID")];
    print_all(output, &format, columns, &tasks, row)?;
    if tasks.is_empty() {
        eprintln!("no task of this run has to run again");
    }
    Ok(())
}
