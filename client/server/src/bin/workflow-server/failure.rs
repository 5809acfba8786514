//! Failures of commands: message, hint and exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use pg_workflow_client::Error;
use pg_workflow_client::tokio_postgres::error::SqlState;
use pg_workflow_server::migrate;

use crate::output::sanitize;

pub const NOT_FOUND: u8 = 3;
pub const DISAGREEMENTS: u8 = 4;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// A failure with its own message and exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Something that the user named does not exist.
    pub fn not_found(message: impl Into<String>) -> anyhow::Error {
        Failure { code: NOT_FOUND, message: message.into() }.into()
    }

    /// Rows and history disagree.
    pub fn disagreements(message: impl Into<String>) -> anyhow::Error {
        Failure { code: DISAGREEMENTS, message: message.into() }.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints an error to standard error and returns its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // The reader has closed the pipe: `workflow-server list tasks --all | head`.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    // It can contain names from users.
    let message = sanitize(&format!("{error:#}"));
    match hint(error) {
        Some(hint) => eprintln!("workflow-server: {message}. {hint}"),
        None => eprintln!("workflow-server: {message}"),
    }
    ExitCode::from(exit_code(error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.code;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::NotFound { .. }) => NOT_FOUND,
        Some(Error::Cursor(_)) => USAGE,
        _ => FAILED,
    }
}

fn hint(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<migrate::Error>() {
        return Some(error.hint());
    }
    match error.downcast_ref::<Error>()? {
        Error::Cursor(_) => Some("Use the next --cursor that this list printed, or omit --cursor"),
        Error::Unknown(_) => None,
        // No such schema, function, table or column.
        error if matches!(error.code().map(SqlState::code), Some("3F000" | "42883" | "42P01" | "42703")) => {
            Some("Install or update the extension in that database: workflow-server migrate up")
        }
        error => Some(error.hint()),
    }
}
