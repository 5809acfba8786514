//! `workflow-server cancel`.

use anyhow::Result;
use clap::Args;
use pg_workflow_client::tokio_postgres::types::Type;
use pg_workflow_client::{Error, session};
use serde::Serialize;
use uuid::Uuid;

use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, Table, whole};

/// Cancel tasks, or all tasks of runs
///
/// A queued task is skipped, a retrying one fails. The worker of a running one is asked to stop: its next renewal tells it,
/// and the task is not retried. Stops at the first id that it cannot cancel.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server cancel 01a20acc-4268-71f9-9cd2-3ff43d35c22a
  workflow-server list runs --dag etl --state running --all --json | jq -r .id | xargs workflow-server cancel")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Tasks or runs
    #[arg(required = true, value_name = "ID")]
    ids: Vec<Uuid>,

    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Cancelled {
    id: Uuid,
    outcome: String,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let mut table = Table::new(vec![whole("ID"), whole("OUTCOME")]);
    for id in arguments.ids {
        let rows = session::once(&client, "SELECT workflow.request_cancel($1)", &[(&id, Type::UUID)]).await?;
        let outcome: String = rows[0].try_get(0).map_err(Error::from)?;
        match arguments.format.json {
            true => output.json(&Cancelled { id, outcome })?,
            false => table.print(output, &[vec![Cell::from(id.to_string()), Cell::from(outcome)]])?,
        }
        output.flush()?;
    }
    Ok(())
}
