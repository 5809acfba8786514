//! `workflow-server verify`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use pg_workflow_client::pool::{Options, Pool};
use pg_workflow_client::{Disagreement, History};

use crate::Database;
use crate::failure::Failure;
use crate::output::{Format, Output};
use crate::table::{Cell, Table, elastic, whole};

/// The longest that PostgreSQL can be told: 24 days.
const NO_LIMIT: Duration = Duration::from_millis(i32::MAX as u64);

/// Replay all history against the rows, and list where they disagree.
///
/// Exits with 4 where they do. Reads both whole, and takes its time.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server verify && echo fine
  workflow-server verify --json | jq -r .entity_id")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    format: Format,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    // Alone, the pool would try for a while before it says what is wrong.
    arguments.database.database_url.connect().await?;
    let options = Options { max_connections: 1, statement_timeout: NO_LIMIT, ..Options::default() };
    let connection = Pool::new(arguments.database.database_url, options).get().await?;
    // So that Ctrl-C ends the work in the server too. Not all systems that it runs on can do that.
    let _ = connection.batch_execute("SET client_connection_check_interval = '5s'").await;
    let disagreements = History::new(&connection).verify().await?;
    if arguments.format.json {
        disagreements.iter().try_for_each(|disagreement| output.json(disagreement))?;
    } else {
        let columns = vec![whole("ENTITY TYPE"), whole("ENTITY ID"), whole("PROBLEM"), elastic("DETAIL")];
        let row = |found: &Disagreement| {
            vec![
                Cell::from(found.entity_type.as_str()),
                Cell::optional(found.entity_id.map(|id| id.to_string())),
                Cell::from(found.problem.as_str()),
                Cell::from(found.detail.get()),
            ]
        };
        let rows: Vec<Vec<Cell>> = disagreements.iter().map(row).collect();
        Table::new(columns).print(output, &rows)?;
    }
    output.flush()?;
    match disagreements.len() {
        0 => {
            eprintln!("rows and history agree");
            Ok(())
        }
        count => Err(Failure::disagreements(format!(
            "rows and history disagree in {count} places. Somebody wrote around the triggers, or a restore was incomplete: see Privileges in the README"
        ))),
    }
}
