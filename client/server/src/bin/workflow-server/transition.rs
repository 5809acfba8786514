//! `workflow-server move`.

use anyhow::Result;
use clap::Args;
use pg_workflow_client::{DagRuns, State, TaskInstances, Transition};
use serde::Serialize;
use uuid::Uuid;

use crate::Database;
use crate::failure::Failure;
use crate::list::state_parser;
use crate::lookup::{self, Found};
use crate::output::{Format, Output};
use crate::table::{Cell, Table, whole};

/// Move runs or tasks to a state by hand
///
/// The database rejects what its rules do not allow. If a worker holds a task, its claim is lost. Stops at the first id that it
/// cannot move.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server move 01a20acc-4268-71f9-9cd2-3ff43d35c22a --to failed --from running --reason 'host is gone'
  workflow-server list tasks --run 01a20acc-426c-72e1-b99d-ae799985b4ee --state queued --all --json | jq -r .id |
      xargs workflow-server move --to skipped")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Runs or tasks
    #[arg(required = true, value_name = "ID")]
    ids: Vec<Uuid>,

    /// State to move to
    #[arg(long, value_name = "STATE", value_parser = state_parser())]
    to: State,

    /// Only from this state; without this flag, from the state that each is in
    #[arg(long, value_name = "STATE", value_parser = state_parser())]
    from: Option<State>,

    /// The reason, which the history keeps
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Moved {
    id: Uuid,
    old_state: State,
    new_state: State,
    version: i64,
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let Arguments { database, ids, to, from, reason, format } = arguments;
    let client = database.database_url.connect().await?;
    let mut table = Table::new(vec![whole("ID"), whole("WAS"), whole("IS"), whole("VERSION")]);
    for id in ids {
        let found = lookup::find(&client, &id.to_string()).await?;
        let old_state = from.map_or_else(|| state_of(&found), Ok)?;
        let transition = Transition::new(old_state, to);
        let transition = match &reason {
            Some(reason) => transition.with_metadata("reason", reason.as_str()),
            None => transition,
        };
        let version = match found {
            Found::Run(run) => DagRuns::new(&client).transition_with(run.id, &transition).await?,
            _ => TaskInstances::new(&client).transition_with(id, &transition).await?,
        };
        if format.json {
            output.json(&Moved { id, old_state, new_state: to, version })?;
        } else {
            let row = [Cell::from(id.to_string()), old_state.into(), to.into(), Cell::from(version.to_string())];
            table.print(output, &[row.into()])?;
        }
        output.flush()?;
    }
    Ok(())
}

fn state_of(found: &Found) -> Result<State> {
    match found {
        Found::Run(run) => Ok(run.state),
        Found::Task(task) => Ok(task.state),
        Found::Dag(dag) => {
            Err(Failure::not_found(format!("{} is a DAG, which has no state: pause it instead", dag.id)))
        }
    }
}
