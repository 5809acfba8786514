//! `workflow-server pause` and `unpause`.

use anyhow::Result;
use clap::Args;
use pg_workflow_client::Dags;

use crate::output::sanitize;
use crate::{Database, lookup};

/// Pause DAGs: no task of theirs is claimed
///
/// Running tasks continue. Schedulers start no new runs.
#[derive(Args)]
#[command(after_help = "Example:
  workflow-server pause etl")]
pub struct PauseArguments {
    #[command(flatten)]
    which: Which,
}

/// Let the tasks of paused DAGs be claimed again
#[derive(Args)]
#[command(after_help = "Example:
  workflow-server list dags --paused --all --json | jq -r .id | xargs workflow-server unpause")]
pub struct UnpauseArguments {
    #[command(flatten)]
    which: Which,
}

#[derive(Args)]
struct Which {
    #[command(flatten)]
    database: Database,

    /// Names or ids of DAGs
    #[arg(required = true, value_name = "DAG")]
    dags: Vec<String>,
}

pub async fn pause(arguments: PauseArguments) -> Result<()> {
    set(arguments.which, true).await
}

pub async fn unpause(arguments: UnpauseArguments) -> Result<()> {
    set(arguments.which, false).await
}

async fn set(Which { database, dags }: Which, is_paused: bool) -> Result<()> {
    let client = database.database_url.connect().await?;
    for name in dags {
        let dag = lookup::find_dag(&client, &name).await?;
        let dags = Dags::new(&client);
        let has_changed = if is_paused { dags.pause(dag.id).await? } else { dags.unpause(dag.id).await? };
        let state = if is_paused { "paused" } else { "not paused" };
        let already = if has_changed { "" } else { "already " };
        eprintln!("{}", sanitize(&format!("{} is {already}{state}", dag.name)));
    }
    Ok(())
}
