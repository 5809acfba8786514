//! The server: it reads its arguments, binds and calls the library.

mod redis;
mod replay;
mod serve;
mod watch;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind};
use pg_workflow_client::Error;
use pg_workflow_client::connect::PostgresServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Relays the events of a pg_workflow database to Redis, answers over HTTP, and shows and replays workflows.
///
/// Exits with 0 when all went well or it was told to stop (SIGTERM, Ctrl-C), 2 when the command line makes no sense,
/// and 1 when something else went wrong.
#[derive(Parser)]
#[command(name = "workflow-server", version, max_term_width = 110)]
struct Cli {
    /// What to log to standard error: a level (error, warn, info, debug, trace, off), or levels for modules.
    #[arg(long, global = true, env = "RUST_LOG", default_value = "info", value_name = "LEVEL")]
    log: Targets,

    /// How to log: lines for people, or an object of JSON a line.
    #[arg(long, global = true, env = "WORKFLOW_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Watch(watch::Arguments),
    Replay(replay::Arguments),
}

#[derive(Args)]
struct Database {
    /// The database: postgres://user:password@host:port/database, or host=… dbname=… Several hosts with commas between
    /// them mean the one that accepts writes. sslmode and sslrootcert are as for psql.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = server)]
    database_url: PostgresServer,
}

fn server(url: &str) -> Result<PostgresServer, Error> {
    Ok(PostgresServer::parse(url)?.with_application_name("workflow-server"))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format = match cli.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(format).with(cli.log).init();
    match start(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workflow-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(async {
        let shutdown = told_to_stop()?;
        match command {
            Command::Serve(arguments) => serve::run(arguments, shutdown).await,
            Command::Watch(arguments) => watch::run(arguments, shutdown).await,
            Command::Replay(arguments) => replay::run(arguments, shutdown).await,
        }
    });
    // Not by dropping it: that would wait for a write to a terminal that is stopped, or a name that does not resolve.
    runtime.shutdown_background();
    result
}

/// Cancelled by SIGTERM and SIGINT.
fn told_to_stop() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let cancel = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
        tracing::debug!("told to stop");
        cancel.cancel();
    });
    Ok(shutdown)
}

/// Ends the program as for a command line that makes no sense.
fn usage(message: &str) -> ! {
    Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit()
}
