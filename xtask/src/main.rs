//! `cargo xtask …`: every command does all of its own set-up.

use std::process::ExitCode;

use clap::Parser;
use xtask::cli::Command;

fn main() -> ExitCode {
    match Command::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not as `main` itself would print it: with RUST_BACKTRACE set, that buries the message.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
