//! `workflow-server migrate`.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use pg_workflow_server::migrate::{self, Step, Target, Versions};

use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, Table, whole};

/// Install or update the extension in the database
///
/// Runs CREATE EXTENSION or ALTER EXTENSION … UPDATE in one transaction: if it fails, nothing has changed. The files of the
/// extension must be on the database server. Changes require a superuser.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server migrate plan
  workflow-server migrate up
  workflow-server migrate version --json | jq -r .installed")]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Install or update to the default version on the server
    ///
    /// Does nothing if it is up to date.
    Up(Change),
    /// Downgrade to the previous version, if the server has scripts for it
    Down(Change),
    /// Install or change to a version
    To {
        /// Version, for example 0.1.0; see `migrate version`
        version: String,
        #[command(flatten)]
        change: Change,
    },
    /// Print the installed, loaded and available versions
    Version {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        format: Format,
    },
    /// Print the action of `up` without running it
    Plan(Connection),
}

#[derive(Args)]
struct Connection {
    #[command(flatten)]
    database: Database,
}

#[derive(Args)]
struct Change {
    #[command(flatten)]
    connection: Connection,

    /// Maximum time to wait for locks on the tables of the extension
    ///
    /// Waits in attempts of 1 s, between which other sessions continue. The error names the sessions that hold the locks.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86400))]
    wait: u64,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    match arguments.action {
        Action::Up(change) => migrate_to(change, Target::Newest, output).await?,
        Action::Down(change) => migrate_to(change, Target::Previous, output).await?,
        Action::To { version, change } => migrate_to(change, Target::Version(version), output).await?,
        Action::Plan(connection) => print_plan(connection, output).await?,
        Action::Version { connection, format } => {
            let client = connection.database.database_url.connect().await?;
            let versions = migrate::versions(&client).await?;
            if format.json { output.json(&versions)? } else { print_versions(&versions, output)? }
        }
    }
    Ok(output.flush()?)
}

async fn migrate_to(change: Change, target: Target, output: &mut Output) -> Result<()> {
    let mut client = change.connection.database.database_url.connect().await?;
    let step = migrate::migrate(&mut client, &target, Duration::from_secs(change.wait)).await?;
    output.line(&match &step {
        Step::Nothing(_) => step.to_string(),
        _ => format!("done: {step}"),
    })?;
    let versions = migrate::versions(&client).await?;
    // The newest library serves older catalogs.
    if versions.library != versions.installed && versions.library.as_ref() != Some(&versions.default) {
        eprintln!(
            "PostgreSQL has loaded library {}, but {} is installed. Install its library and restart PostgreSQL.",
            versions.library.as_deref().unwrap_or("none"),
            versions.installed.as_deref().unwrap_or("none")
        );
    }
    Ok(())
}

async fn print_plan(connection: Connection, output: &mut Output) -> Result<()> {
    let client = connection.database.database_url.connect().await?;
    let step = migrate::plan(&client, &Target::Newest).await?;
    output.line(&step.to_string())?;
    match step.sql() {
        Some(sql) => Ok(output.line(&format!("  {sql};"))?),
        None => Ok(()),
    }
}

fn print_versions(versions: &Versions, output: &mut Output) -> std::io::Result<()> {
    let rows = [
        ("installed", Cell::optional(versions.installed.as_ref())),
        ("library", Cell::optional(versions.library.as_ref())),
        ("default", Cell::from(versions.default.as_str())),
        ("available", Cell::from(versions.available.join(", "))),
    ];
    let rows: Vec<Vec<Cell>> = rows.into_iter().map(|(name, value)| vec![Cell::from(name), value]).collect();
    Table::new(vec![whole("NAME"), whole("VERSION")]).without_header().print(output, &rows)
}
