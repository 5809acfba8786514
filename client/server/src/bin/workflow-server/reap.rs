//! `workflow-server reap`.

use anyhow::Result;
use clap::Args;
use pg_workflow_client::Error;
use pg_workflow_client::tokio_postgres::Row;
use serde::Serialize;
use uuid::Uuid;

use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, Table, elastic, whole};

/// End all claims whose lease or timeout has run out
///
/// Their tasks are retrying if they have attempts left, else failed. serve does so every 10 s, and so do workers that wait for
/// tasks.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server reap
  workflow-server reap --json | jq -r .worker")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Reaped {
    id: Uuid,
    worker: String,
    reason: String,
    state: String,
}

impl Reaped {
    fn of(row: &Row) -> Result<Reaped, Error> {
        Ok(Reaped { id: row.try_get(0)?, worker: row.try_get(1)?, reason: row.try_get(2)?, state: row.try_get(3)? })
    }

    fn cells(&self) -> Vec<Cell> {
        [self.id.to_string().as_str(), &self.worker, &self.reason, &self.state].map(Cell::from).into()
    }
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let mut table = Table::new(vec![whole("ID"), elastic("WORKER"), whole("REASON"), whole("STATE")]);
    let mut count = 0;
    loop {
        let sql = "SELECT id, worker, reason, state FROM workflow.reap_claims()";
        let rows = client.query(sql, &[]).await.map_err(Error::from)?;
        let reaped: Vec<Reaped> = rows.iter().map(Reaped::of).collect::<Result<_, _>>()?;
        if reaped.is_empty() {
            break;
        }
        if arguments.format.json {
            reaped.iter().try_for_each(|claim| output.json(claim))?;
        } else {
            table.print(output, &reaped.iter().map(Reaped::cells).collect::<Vec<_>>())?;
        }
        output.flush()?;
        count += reaped.len();
    }
    if count == 0 {
        eprintln!("no claim has run out");
    }
    Ok(())
}
