//! `workflow-server migrate`.

use anyhow::Result;
use clap::{Args, Subcommand};
use pg_workflow_server::migrate::{self, Step, Target, Versions};

use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, Table, whole};

/// Install the extension in the database, or bring it to another version.
///
/// Wraps CREATE EXTENSION and ALTER EXTENSION … UPDATE, each in one transaction: it is done, or nothing has changed. The
/// extension's files must be on the database server; changing anything takes a superuser.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server migrate plan
  workflow-server migrate up
  workflow-server migrate version --json | jq -r .installed")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Install the extension, or update it to the default version of the files on the server. Nothing where it is there.
    Up(Connection),
    /// Go back to the version before, where scripts lead there.
    Down(Connection),
    /// Install this version, or go to it.
    To {
        /// For example 0.1.0; `migrate version` lists those that there are.
        version: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Print the installed version, that of the loaded library, and those that there are.
    Version {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        format: Format,
    },
    /// Print what `up` would do, and do nothing.
    Plan(Connection),
}

#[derive(Args)]
struct Connection {
    #[command(flatten)]
    database: Database,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    match arguments.what {
        What::Up(connection) => go(connection, Target::Newest, output).await?,
        What::Down(connection) => go(connection, Target::Previous, output).await?,
        What::To { version, connection } => go(connection, Target::Version(version), output).await?,
        What::Plan(connection) => plan(connection, output).await?,
        What::Version { connection, format } => {
            let client = connection.database.database_url.connect().await?;
            let versions = migrate::versions(&client).await?;
            if format.json { output.json(&versions)? } else { print(&versions, output)? }
        }
    }
    Ok(output.flush()?)
}

async fn go(connection: Connection, target: Target, output: &mut Output) -> Result<()> {
    let mut client = connection.database.database_url.connect().await?;
    let step = migrate::migrate(&mut client, &target).await?;
    output.line(&match &step {
        Step::Nothing(_) => step.to_string(),
        _ => format!("done: {step}"),
    })?;
    let versions = migrate::versions(&client).await?;
    if versions.library != versions.installed {
        eprintln!(
            "the server has loaded the library of {}: restart PostgreSQL with the library of {}",
            versions.library.as_deref().unwrap_or("no version"),
            versions.installed.as_deref().unwrap_or("no version")
        );
    }
    Ok(())
}

async fn plan(connection: Connection, output: &mut Output) -> Result<()> {
    let client = connection.database.database_url.connect().await?;
    let step = migrate::plan(&client, &Target::Newest).await?;
    output.line(&step.to_string())?;
    match step.sql() {
        Some(sql) => Ok(output.line(&format!("  {sql};"))?),
        None => Ok(()),
    }
}

fn print(versions: &Versions, output: &mut Output) -> std::io::Result<()> {
    let rows = [
        ("installed", Cell::optional(versions.installed.as_ref())),
        ("library", Cell::optional(versions.library.as_ref())),
        ("default", Cell::from(versions.default.as_str())),
        ("available", Cell::from(versions.available.join(", "))),
    ];
    let rows: Vec<Vec<Cell>> = rows.into_iter().map(|(name, value)| vec![Cell::from(name), value]).collect();
    Table::new(vec![whole("WHAT"), whole("VERSION")]).without_header().print(output, &rows)
}
