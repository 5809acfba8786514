//! `workflow-server watch`.

use anyhow::Result;
use clap::Args;
use pg_workflow_client::event::Event;
use pg_workflow_server::watch::Watch;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::output::{Format, Output, escape_json, sanitize, style_of};
use crate::{Database, lookup};

/// Show live events, one per line
///
/// A line has time, task or run, transition, version and actor. Does not use Redis. Misses events while the database is
/// unavailable, or if the terminal is too slow. With --json, events too long for a notification lack their metadata.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server watch --dag etl
  workflow-server watch --json | jq --unbuffered -r .task_id")]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Only events of this DAG
    #[arg(long, value_name = "NAME|ID")]
    dag: Option<String>,

    /// Only events of this run
    #[arg(long, value_name = "ID")]
    run: Option<Uuid>,

    #[command(flatten)]
    format: Format,
}

/// Selects events.
struct Filter {
    dag_id: Option<Uuid>,
    dag_run_id: Option<Uuid>,
}

pub async fn run(arguments: Arguments, output: &Output, shutdown: CancellationToken) -> Result<()> {
    let showing = async {
        let filter = Filter::find(&arguments).await?;
        let mut watch = Watch::new(arguments.database.database_url);
        // Not Output: SIGTERM must end the process even if the terminal is stopped.
        let mut stdout = tokio::io::stdout();
        loop {
            let payload = watch.next().await;
            let event: Option<Event> = serde_json::from_str(&payload).ok();
            if event.as_ref().is_none_or(|event| filter.matches(event)) {
                let mut line = if arguments.format.json {
                    escape_json(&payload)
                } else {
                    // An event that this version cannot parse is shown unchanged.
                    event.map_or_else(|| sanitize(&payload), |event| describe(output, &event))
                };
                line.push('\n');
                stdout.write_all(line.as_bytes()).await?;
                stdout.flush().await?;
            }
        }
    };
    shutdown.run_until_cancelled(showing).await.unwrap_or(Ok(()))
}

impl Filter {
    /// Needs the database only with a filter: without one, it can still be unavailable.
    async fn find(arguments: &Arguments) -> Result<Filter> {
        if arguments.dag.is_none() && arguments.run.is_none() {
            return Ok(Filter { dag_id: None, dag_run_id: None });
        }
        let client = arguments.database.database_url.connect().await?;
        let dag = match &arguments.dag {
            Some(name_or_id) => Some(lookup::find_dag(&client, name_or_id).await?),
            None => None,
        };
        if let Some(id) = arguments.run {
            lookup::require_run(&client, id).await?;
        }
        Ok(Filter { dag_id: dag.map(|dag| dag.id), dag_run_id: arguments.run })
    }

    fn matches(&self, event: &Event) -> bool {
        self.dag_id.is_none_or(|id| id == event.dag_id) && self.dag_run_id.is_none_or(|id| id == event.dag_run_id)
    }
}

fn describe(output: &Output, event: &Event) -> String {
    let entity = match &event.task_id {
        Some(task) => format!("{} of run {}", sanitize(task), event.dag_run_id),
        None => format!("run {}", event.entity_id),
    };
    let time = event.changed_at.format("%H:%M:%S%.3f");
    let old = event.old_state.map_or("-", |state| state.as_str());
    let new = event.new_state.map_or("deleted".to_owned(), |state| output.paint(state.as_str(), style_of(state)));
    format!("{time}  {entity}  {old} → {new}  v{}  {}", event.version, sanitize(&event.actor))
}
