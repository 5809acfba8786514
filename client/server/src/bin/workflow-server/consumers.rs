//! `workflow-server consumers`.

use anyhow::Result;
use chrono::{DateTime, Utc};
use clap::Args;
use pg_workflow_client::tokio_postgres::Row;
use pg_workflow_client::{Error, session};
use serde::Serialize;

use crate::Database;
use crate::output::{Format, Output};
use crate::table::{Cell, elastic, print_all, whole};
use crate::time::{format_duration, format_time};

/// Show the consumers of the feed, with their backlogs
///
/// It counts the events: a backlog of millions takes seconds.
#[derive(Args)]
#[command(after_help = "Example:
  workflow-server consumers --json | jq 'select(.pending > 100000) | .consumer'")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Consumer {
    consumer: String,
    pending: i64,
    /// Null if there is no backlog.
    lag_seconds: Option<f64>,
    last_active: DateTime<Utc>,
    owner: Option<String>,
    given_up_at: Option<DateTime<Utc>>,
}

const SQL: &str =
    "SELECT consumer, pending, extract(epoch FROM lag)::double precision, last_active, owner::text, given_up_at
    FROM workflow.consumer_lag ORDER BY consumer";

fn read(row: &Row) -> Result<Consumer, Error> {
    Ok(Consumer {
        consumer: row.try_get(0)?,
        pending: row.try_get(1)?,
        lag_seconds: row.try_get(2)?,
        last_active: row.try_get(3)?,
        owner: row.try_get(4)?,
        given_up_at: row.try_get(5)?,
    })
}

fn row(consumer: &Consumer) -> Vec<Cell> {
    let Consumer { consumer, pending, lag_seconds, last_active, owner, given_up_at } = consumer;
    vec![
        Cell::from(consumer.as_str()),
        Cell::from(pending.to_string()),
        Cell::optional(lag_seconds.map(format_duration)),
        Cell::from(format_time(*last_active)),
        Cell::optional(owner.as_ref()),
        Cell::optional(given_up_at.map(format_time)),
    ]
}

pub async fn run(arguments: Arguments, output: &mut Output) -> Result<()> {
    let client = arguments.database.database_url.connect().await?;
    let rows = session::once(&client, SQL, &[]).await?;
    let consumers = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let columns = ["PENDING", "LAG", "LAST ACTIVE", "OWNER", "GIVEN UP"].map(whole);
    let columns = [elastic("CONSUMER")].into_iter().chain(columns).collect();
    print_all(output, &arguments.format, columns, &consumers, row)?;
    if consumers.is_empty() {
        eprintln!("no consumers");
    }
    Ok(())
}
