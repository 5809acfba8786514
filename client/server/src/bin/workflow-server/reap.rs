//! `workflow-server reap`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use clap::Args;
use pg_workflow_client::Claims;
use pg_workflow_client::model::ReapedClaim;

use crate::Database;
use crate::output::{Format, Output, sanitize};
use crate::table::{Cell, Table, elastic, whole};

/// End all claims whose lease or timeout has run out
///
/// Their tasks are retrying if they have attempts left, else failed. serve does so every 10 s, and so do workers that wait for
/// tasks. If no worker could renew its leases for a while, they begin once more at the first look.
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

/// Claims that are ended by a statement.
const MOST: i32 = 100;

fn row(claim: &ReapedClaim) -> Vec<Cell> {
    let ReapedClaim { id, worker, reason, state, .. } = claim;
    vec![
        Cell::from(id.to_string()),
        Cell::from(worker.as_str()),
        Cell::from(reason.as_str()),
        Cell::from(state.as_str()),
    ]
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let warned = Arc::new(Mutex::new(HashSet::new()));
    let known = warned.clone();
    let warn = move |warning: &str| {
        // Each statement looks at these claims again.
        if known.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.to_owned()) {
            eprintln!("workflow-server: {}", sanitize(warning));
        }
    };
    let client = arguments.database.database_url.connect_with_warnings(warn).await?;
    let mut table = Table::new(vec![whole("ID"), elastic("WORKER"), whole("REASON"), whole("STATE")]);
    let mut count = 0;
    loop {
        let reaped = Claims::new(&client).reap(MOST).await?;
        if reaped.is_empty() {
            break;
        }
        if arguments.format.json {
            reaped.iter().try_for_each(|claim| output.json(claim))?;
        } else {
            table.print(output, &reaped.iter().map(row).collect::<Vec<_>>())?;
        }
        output.flush()?;
        count += reaped.len();
    }
    if count == 0 && warned.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
        eprintln!("no claim has run out");
    }
    Ok(())
}
