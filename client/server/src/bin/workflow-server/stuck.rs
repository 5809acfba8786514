//! `workflow-server stuck`.

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::Args;
use pg_workflow_client::tokio_postgres::Row;
use pg_workflow_client::tokio_postgres::types::Type;
use pg_workflow_client::{Error, State, session};
use serde::Serialize;
use std::time::Duration;
use uuid::Uuid;

use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, elastic, print_all, whole};
use crate::time::format_duration;

/// Show runs and tasks without progress, longest first
///
/// Progress is a transition or a log line; for a run also a transition of one of its tasks. A claimed task is stuck if its lease
/// or timeout has run out that long ago. Of each queue, it shows the task that no worker claims for the longest time.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server stuck
  workflow-server stuck --longer-than 2h --json | jq -r .entity_id | xargs workflow-server cancel")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Time without progress: 90s, 30m, 2h, 7d
    #[arg(long, default_value = "1h", value_name = "AGE", value_parser = humantime::parse_duration)]
    longer_than: Duration,

    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Stuck {
    entity_type: String,
    entity_id: Uuid,
    dag: String,
    dag_run_id: Uuid,
    task_id: Option<String>,
    state: String,
    version: i64,
    try_number: Option<i32>,
    last_progress: DateTime<Utc>,
    idle_seconds: f64,
}

const SQL: &str = "SELECT entity_type, entity_id, dag, dag_run_id, task_id, state, version, try_number, last_progress,
    extract(epoch FROM idle)::double precision FROM workflow.stuck(make_interval(secs => $1))";

fn read(row: &Row) -> Result<Stuck, Error> {
    Ok(Stuck {
        entity_type: row.try_get(0)?,
        entity_id: row.try_get(1)?,
        dag: row.try_get(2)?,
        dag_run_id: row.try_get(3)?,
        task_id: row.try_get(4)?,
        state: row.try_get(5)?,
        version: row.try_get(6)?,
        try_number: row.try_get(7)?,
        last_progress: row.try_get(8)?,
        idle_seconds: row.try_get(9)?,
    })
}

fn row(stuck: &Stuck) -> Vec<Cell> {
    vec![
        Cell::from(stuck.dag.as_str()),
        Cell::optional(stuck.task_id.as_ref()),
        stuck.state.parse::<State>().map_or_else(|_| Cell::from(stuck.state.as_str()), Cell::from),
        Cell::from(format_duration(stuck.idle_seconds)),
        Cell::from(stuck.entity_id.to_string()),
    ]
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let seconds = arguments.longer_than.as_secs_f64();
    let rows = session::once(&client, SQL, &[(&seconds, Type::FLOAT8)]).await?;
    let stuck = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let columns = vec![elastic("DAG"), elastic("TASK"), whole("STATE"), whole("IDLE"), whole("ID")];
    print_all(output, &arguments.format, columns, &stuck, row)?;
    if stuck.is_empty() {
        eprintln!("nothing is stuck");
    }
    Ok(())
}
