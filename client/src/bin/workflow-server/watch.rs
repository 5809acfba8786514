//! `workflow-server watch`.

use std::io;

use clap::Args;
use clap::builder::FalseyValueParser;
use pg_workflow_client::event::Event;
use pg_workflow_client::watch::Watch;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use crate::Database;

/// Show events as they happen, a line each: time, task or run, move, version, actor.
///
/// Needs no Redis. What happens while the database is away is not shown, and neither is what a slow terminal cannot
/// keep up with.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    /// Print the events as they come, as JSON. One that is too long comes without its metadata and says so.
    #[arg(long, env = "WORKFLOW_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

pub async fn run(arguments: Arguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut watch = Watch::new(arguments.database.database_url);
    let mut output = tokio::io::stdout();
    let showing = async {
        loop {
            let payload = watch.next().await;
            let mut line = if arguments.json { payload } else { describe(&payload) };
            line.push('\n');
            output.write_all(line.as_bytes()).await?;
            output.flush().await?;
        }
    };
    let ended: Option<io::Result<()>> = shutdown.run_until_cancelled(showing).await;
    match ended {
        // Whoever read has seen enough: `workflow-server watch | head`.
        Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Some(ended) => Ok(ended?),
        None => Ok(()),
    }
}

fn describe(payload: &str) -> String {
    let Ok(event) = serde_json::from_str::<Event>(payload) else {
        return visible(payload);
    };
    let entity = match &event.task_id {
        Some(task) => format!("{} of run {}", visible(task), event.dag_run_id),
        None => format!("run {}", event.entity_id),
    };
    let time = event.changed_at.format("%H:%M:%S%.3f");
    let old = event.old_state.map_or("-", |state| state.as_str());
    format!("{time}  {entity}  {old} → {}  v{}  {}", event.new_state, event.version, visible(&event.actor))
}

/// Names are what users made them: no control character of theirs reaches the terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
