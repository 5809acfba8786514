//! `workflow-server partitions`.

use anyhow::Result;
use clap::Args;
use pg_workflow_client::tokio_postgres::Row;
use pg_workflow_client::{Error, session};
use serde::Serialize;

use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, print_all, whole};

/// Show the partitions of the history and of the logs, with their sizes
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server partitions
  workflow-server partitions --json | jq 'select(.role == \"past\") | .bytes'")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Partition {
    table_name: String,
    partition: String,
    number: i64,
    role: String,
    estimated_rows: i64,
    bytes: i64,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let sql = "SELECT table_name, \"partition\", number, role, estimated_rows, bytes
               FROM workflow.partitions ORDER BY table_name, number";
    let rows = session::once(&client, sql, &[]).await?;
    let read = |row: &Row| {
        Ok(Partition {
            table_name: row.try_get(0)?,
            partition: row.try_get(1)?,
            number: row.try_get(2)?,
            role: row.try_get(3)?,
            estimated_rows: row.try_get(4)?,
            bytes: row.try_get(5)?,
        })
    };
    let partitions: Vec<Partition> = rows.iter().map(read).collect::<Result<_, Error>>()?;
    let columns = ["PARTITION", "TABLE", "ROLE", "ROWS (ESTIMATED)", "BYTES"].map(whole).into();
    Ok(print_all(output, &arguments.format, columns, &partitions, row)?)
}

fn row(partition: &Partition) -> Vec<Cell> {
    vec![
        Cell::from(partition.partition.as_str()),
        Cell::from(partition.table_name.as_str()),
        Cell::from(partition.role.as_str()),
        Cell::from(partition.estimated_rows.to_string()),
        Cell::from(partition.bytes.to_string()),
    ]
}
