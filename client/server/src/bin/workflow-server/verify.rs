//! `workflow-server verify`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use pg_workflow_client::pool::{Options, Pool};
use pg_workflow_client::{Disagreement, History};

use crate::Database;
use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::table::{Cell, elastic, print_all, whole};

/// The maximum of PostgreSQL: 24 days.
const NO_LIMIT: Duration = Duration::from_millis(i32::MAX as u64);

/// Compare the history with the rows, and list disagreements
///
/// Exits with 4 if there are any. Reads all rows and all history.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server verify && echo ok
  workflow-server verify --json | jq -r .entity_id")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    // The pool retries for a while before it reports an error; this reports it at once.
    arguments.database.database_url.connect().await?;
    let options = Options { max_connections: 1, statement_timeout: NO_LIMIT, ..Options::default() };
    let connection = Pool::new(arguments.database.database_url, options).get().await?;
    let disagreements = History::new(&connection).verify().await?;
    let columns = vec![whole("ENTITY TYPE"), whole("ENTITY ID"), whole("PROBLEM"), elastic("DETAIL")];
    print_all(output, &arguments.format, columns, &disagreements, row)?;
    match disagreements.len() {
        0 => {
            eprintln!("rows and history agree");
            Ok(())
        }
        count => Err(Failure::disagreements(format!(
            "rows and history disagree: {count} differences. A superuser bypassed the triggers, or a restore was incomplete: see \"verify() findings\" in docs/operations/monitoring.md"
        ))),
    }
}

fn row(found: &Disagreement) -> Vec<Cell> {
    vec![
        Cell::from(found.entity_type.as_str()),
        Cell::optional(found.entity_id.map(|id| id.to_string())),
        Cell::from(found.problem.as_str()),
        Cell::from(found.detail.get()),
    ]
}
