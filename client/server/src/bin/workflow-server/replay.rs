//! `workflow-server replay`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use clap::builder::FalseyValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use pg_workflow_server::replay::{self, Pace, Processes, Progress, Start};
use pg_workflow_server::wfformat::Trace;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Database;
use crate::failure::Failure;

/// Tells a process that it is a worker.
const PLACES: &str = "WORKFLOW_REPLAY_PLACES";

/// Replay a recorded workflow, as a fleet of workers
///
/// Creates a run with its tasks and their dependencies, and the DAG if it does not exist. The database puts each task into a
/// queue after its parents, where workers claim it and run it for its recorded duration, and ends the run. FILE is a trace
/// in WfFormat 1.5: wfcommons.org/format
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server replay client/examples/traces/etl.json --within 10
  workflow-server replay client/examples/traces/etl.json --resume 01a20acc-4268-71f9-9cd2-3ff43d35c22a")]
pub struct Arguments {
    /// Trace
    file: PathBuf,

    #[command(flatten)]
    database: Database,

    /// Speed factor
    #[arg(long, env = "WORKFLOW_SPEED", default_value_t = 1.0, value_name = "N", value_parser = parse_positive)]
    speed: f64,

    /// Duration of the longest path through the workflow, instead of --speed
    #[arg(long, env = "WORKFLOW_WITHIN", value_name = "SECONDS", value_parser = parse_positive, conflicts_with = "speed")]
    within: Option<f64>,

    /// Continue this run, which an earlier replay of the same trace left unfinished, at its speed
    #[arg(long, env = "WORKFLOW_REPLAY_RESUME", value_name = "RUN", conflicts_with_all = ["speed", "within"])]
    resume: Option<Uuid>,

    /// Number of worker processes; 0: this process works, too
    ///
    /// If one is killed, the others get its tasks.
    #[arg(long, env = "WORKFLOW_REPLAY_PROCESSES", default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=100))]
    processes: u16,

    /// Has no effect since 0.3.0: a worker has three connections
    #[arg(long, env = "WORKFLOW_REPLAY_CONNECTIONS", value_name = "N", hide = true)]
    connections: Option<u32>,

    /// In a worker process: how many tasks it runs at a time
    #[arg(long, env = PLACES, value_name = "N", hide = true)]
    places: Option<usize>,

    /// Omit the progress, print only the summary
    #[arg(long, short, env = "WORKFLOW_QUIET", value_parser = FalseyValueParser::new())]
    quiet: bool,
}

fn parse_positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a number greater than 0".to_owned()),
    }
}

pub async fn run(arguments: Arguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let trace = Trace::read(&arguments.file)?;
    for warning in &trace.warnings {
        tracing::warn!("{}: {warning}", arguments.file.display());
    }
    let server = arguments.database.database_url;
    if let Some(places) = arguments.places {
        let working = replay::work(server, &trace, places, shutdown.clone());
        tokio::spawn(async move {
            replay::parent_ended().await;
            shutdown.cancel();
        });
        return Ok(working.await?);
    }
    let start = match (arguments.resume, arguments.within) {
        (Some(run), _) => Start::Resume(run),
        (None, Some(seconds)) => Start::New(Pace::Within(Duration::try_from_secs_f64(seconds)?)),
        (None, None) => Start::New(Pace::Speed(arguments.speed)),
    };
    if arguments.connections.is_some() {
        tracing::warn!("--connections has no effect: a worker has three connections");
    }
    let (progress, seen) = watch::channel(Progress::default());
    let processes = match arguments.processes {
        0 => None,
        count => Some(start_processes(count.into(), trace.tasks.len())?),
    };
    let finished = tokio::select! {
        report = replay::run(&server, &trace, start, processes, &progress) => Some(report),
        () = shutdown.cancelled() => None,
        () = show(seen.clone(), trace.tasks.len(), arguments.quiet) => None,
    };
    match (finished, seen.borrow().dag_run_id) {
        (Some(Ok(report)), _) => {
            let seconds = report.elapsed.as_secs_f64();
            println!(
                "{}: {} tasks, {} transitions in {seconds:.2} s, dag_run {}",
                trace.name, report.tasks, report.transitions, report.dag_run_id
            );
            Ok(())
        }
        (Some(Err(error @ replay::Error::NoRun(_))), _) => {
            Err(Failure::not_found(format!("{error}. {}", error.hint())))
        }
        (Some(Err(error)), _) => bail!("{error}. {}", error.hint()),
        (None, Some(run)) => bail!("stopped; dag_run {run} remains unfinished. Continue it with --resume {run}"),
        (None, None) => bail!("stopped before the run was created"),
    }
}

/// Starts this program again, with the same arguments. All processes together have a place for each task.
fn start_processes(count: usize, tasks: usize) -> Result<Processes, replay::Error> {
    let places = tasks.div_ceil(count).to_string();
    Processes::start(count, || {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).env(PLACES, &places);
        Ok(command)
    })
}

/// Shows the progress while it is polled.
async fn show(seen: watch::Receiver<Progress>, tasks: usize, quiet: bool) {
    if quiet {
        std::future::pending().await
    } else if io::stderr().is_terminal() {
        show_bar(seen, tasks).await
    } else {
        show_lines(seen).await
    }
}

async fn show_bar(seen: watch::Receiver<Progress>, tasks: usize) {
    let bar = ProgressBar::new(tasks as u64);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len}  {msg}") {
        bar.set_style(style);
    }
    loop {
        let now = *seen.borrow();
        bar.set_position(now.success as u64);
        bar.set_message(describe(&now));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn show_lines(seen: watch::Receiver<Progress>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = *seen.borrow();
        eprintln!("{}", describe(&now));
    }
}

fn describe(progress: &Progress) -> String {
    let Progress { queued, running, success, failed, transitions, .. } = progress;
    let failed = if *failed > 0 { format!("  failed {failed}") } else { String::new() };
    format!("queued {queued}  running {running}  success {success}{failed}  ({transitions} transitions)")
}
