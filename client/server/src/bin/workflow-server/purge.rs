//! `workflow-server purge`.

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::Args;
use pg_workflow_client::tokio_postgres::types::Type;
use pg_workflow_client::{Error, session};
use serde::Serialize;

use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, elastic, print_all, whole};
use crate::time::parse_time;

/// Delete runs that finished before a time, and old partitions of the history
///
/// Deletes in short transactions until nothing is left to delete. Keeps events that a consumer has not acknowledged, and
/// runs that another table refers to.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server purge --before 90d --dry-run
  workflow-server purge --before 2026-09-01")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Time before which runs must have finished: 2026-09-01, 2026-09-01T03:00:00Z, or an age: 90d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: DateTime<Utc>,

    /// Change nothing; show what would be deleted
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Purged {
    object: String,
    rows: i64,
    outcome: String,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let Arguments { database, before, dry_run, format } = arguments;
    let client = database.database_url.connect().await?;
    let mut total: Vec<Purged> = Vec::new();
    loop {
        let sql = "SELECT object, rows, outcome FROM workflow.purge($1, dry_run => $2)";
        let rows = session::once(&client, sql, &[(&before, Type::TIMESTAMPTZ), (&dry_run, Type::BOOL)]).await?;
        let mut runs = 0;
        for row in rows {
            let get = |column| row.try_get::<_, String>(column).map_err(Error::from);
            let purged = Purged { object: get(0)?, rows: row.try_get(1).map_err(Error::from)?, outcome: get(2)? };
            if purged.object == "dag_runs" {
                runs = purged.rows;
            }
            // Each call returns the number of its own.
            match total.iter_mut().find(|known| known.object == purged.object && known.outcome == purged.outcome) {
                Some(known) => known.rows += purged.rows,
                None => total.push(purged),
            }
        }
        if dry_run || runs == 0 {
            break;
        }
    }
    let columns = vec![elastic("OBJECT"), whole("ROWS"), elastic("OUTCOME")];
    Ok(print_all(output, &format, columns, &total, row)?)
}

fn row(purged: &Purged) -> Vec<Cell> {
    vec![Cell::from(purged.object.as_str()), Cell::from(purged.rows.to_string()), Cell::from(purged.outcome.as_str())]
}
