//! `workflow-server completions`.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Cli;

/// Print a script that completes commands and flags in a shell, and in bash, zsh and fish also states and orders.
#[derive(Args)]
#[command(after_help = "Examples:
  workflow-server completions bash > /etc/bash_completion.d/workflow-server
  workflow-server completions zsh > \"${fpath[1]}/_workflow-server\"
  workflow-server completions fish > ~/.config/fish/completions/workflow-server.fish")]
pub struct Arguments {
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "workflow-server", &mut script);
    // Not right into the output: a pipe that is closed would be a panic.
    Ok(io::stdout().write_all(&script)?)
}
