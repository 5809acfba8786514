//! The command line: parses arguments, sets up logging and runs a command.

/// Returns memory to the operating system after a burst of large responses, which that of glibc keeps.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod cancel;
mod completions;
mod consumers;
mod database;
mod descriptors;
mod failure;
mod health;
mod history;
mod list;
mod logging;
mod lookup;
mod migrate;
mod output;
mod partitions;
mod pause;
mod purge;
mod reap;
mod redis;
mod replay;
mod rerun;
mod serve;
mod show;
mod signals;
mod stuck;
mod table;
mod time;
mod token;
mod transition;
mod verify;
mod watch;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use database::Database;
use logging::LogFormat;
use output::{Color, Output};
use signals::stop_on_signal;
use tracing_subscriber::filter::Targets;

/// Relay of pg_workflow events to Redis, HTTP server, and command line
///
/// Results go to standard output, all else to standard error. Times are in UTC.
#[derive(Parser)]
#[command(name = "workflow-server", version, max_term_width = 110, after_help = EXIT_CODES)]
struct Cli {
    /// Log level: error, warn, info, debug, trace, off, or levels by module
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "RUST_LOG",
        default_value = "info",
        value_name = "LEVEL",
        value_parser = logging::parse_levels
    )]
    log: Targets,

    /// Log format: text, or one JSON object per line
    #[arg(long, global = true, help_heading = "Global options", env = "WORKFLOW_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,

    /// When to color output and logs
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "WORKFLOW_COLOR",
        default_value = "auto",
        value_name = "WHEN"
    )]
    color: Color,

    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  success, or serve or watch stopped by SIGTERM, SIGHUP or Ctrl-C
  1  failure
  2  invalid usage
  3  no such DAG, run or task
  4  verify found a disagreement of rows and history

Examples:
  export DATABASE_URL=postgres://alice@db.example/workflow
  workflow-server list runs --state failed,running
  workflow-server show etl
  workflow-server watch --dag etl";

#[derive(Subcommand)]
enum Command {
    Serve(Box<serve::Arguments>),
    List(list::Arguments),
    Show(show::Arguments),
    History(history::Arguments),
    Why(why::Arguments),
    Watch(watch::Arguments),
    Stuck(stuck::Arguments),
    Consumers(consumers::Arguments),
    Partitions(partitions::Arguments),
    Cancel(cancel::Arguments),
    Rerun(rerun::Arguments),
    Move(transition::Arguments),
    Pause(pause::PauseArguments),
    Unpause(pause::UnpauseArguments),
    Reap(reap::Arguments),
    Purge(purge::Arguments),
    Verify(verify::Arguments),
    Migrate(migrate::Arguments),
    Replay(replay::Arguments),
    Health(health::Arguments),
    Completions(completions::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.log, cli.log_format, cli.color);
    match start(cli.command, Output::new(cli.color)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn start(command: Command, mut output: Output) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let output = &mut output;
    let result = runtime.block_on(async {
        match command {
            Command::Serve(arguments) => serve::run(*arguments, stop_on_signal()?).await,
            Command::Watch(arguments) => watch::run(arguments, output, stop_on_signal()?).await,
            Command::Replay(arguments) => replay::run(arguments, stop_on_signal()?).await,
            // These have nothing to clean up: a signal ends the process.
            Command::List(arguments) => list::run(arguments, output).await,
            Command::Show(arguments) => show::run(arguments, output).await,
            Command::History(arguments) => history::run(arguments, output).await,
            Command::Why(arguments) => why::run(arguments, output).await,
            Command::Stuck(arguments) => stuck::run(arguments, output).await,
            Command::Consumers(arguments) => consumers::run(arguments, output).await,
            Command::Partitions(arguments) => partitions::run(arguments, output).await,
            Command::Purge(arguments) => purge::run(arguments, output).await,
            Command::Cancel(arguments) => cancel::run(arguments, output).await,
            Command::Rerun(arguments) => rerun::run(arguments, output).await,
            Command::Move(arguments) => transition::run(arguments, output).await,
            Command::Pause(arguments) => pause::pause(arguments).await,
            Command::Unpause(arguments) => pause::unpause(arguments).await,
            Command::Reap(arguments) => reap::run(arguments, output).await,
            Command::Verify(arguments) => verify::run(arguments, output).await,
            Command::Migrate(arguments) => migrate::run(arguments, output).await,
            Command::Health(arguments) => health::run(&arguments).await,
            Command::Completions(arguments) => completions::run(&arguments),
        }
    });
    // Not dropped: that would wait for a write to a stopped terminal, or for name resolution.
    runtime.shutdown_background();
    result
}

/// Exits as for invalid usage.
fn exit_with_usage(message: &str) -> ! {
    Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit()
}
