//! `workflow-server completions`.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Cli;

/// Print a shell script that completes commands and flags
///
/// In bash, zsh and fish it also completes states and orders.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server completions bash > /etc/bash_completion.d/workflow-server
  workflow-server completions zsh > \"${fpath[1]}/_workflow-server\"
  workflow-server completions fish > ~/.config/fish/completions/workflow-server.fish")]
pub struct Arguments {
    /// Shell
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "workflow-server", &mut script);
    // Not directly to standard output: generate() panics if the pipe is closed.
    Ok(io::stdout().write_all(&script)?)
}
