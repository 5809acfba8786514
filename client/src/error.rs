//! What can go wrong between this crate and the servers it talks to.

#[cfg(feature = "server")]
mod redis;

use std::time::Duration;

use tokio_postgres::error::SqlState;

/// Why the database, or Redis, could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection string makes no sense.
    #[error("not a connection string: {0}; expected postgres://user:password@host:port/database")]
    ConnectionString(String),
    /// PostgreSQL refused, or the connection to it broke.
    #[error("{}", postgres_message(.0))]
    Postgres(#[source] tokio_postgres::Error),
    /// PostgreSQL did not answer in time.
    #[error("no answer from PostgreSQL within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// PostgreSQL answered something that this version does not know.
    #[error("PostgreSQL answered {0}, which this version does not know; upgrade workflow-server")]
    Unknown(String),
    /// The Redis URL makes no sense, or the certificates given with it.
    #[cfg(feature = "server")]
    #[error("not a way to Redis: {0}; expected redis://user:password@host:port (rediss:// for TLS)")]
    RedisUrl(String),
    /// Redis refused, or the connection to it broke.
    #[cfg(feature = "server")]
    #[error("{}", redis::message(.0))]
    Redis(#[from] ::redis::RedisError),
    /// Something could not be written as JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A move of a replay was refused, or could not be made in time.
    #[error("cannot move {entity} from {from} to {to}: {source}")]
    Move {
        /// The run or the task.
        entity: String,
        /// The state it was to leave.
        from: pg_workflow_state_machine::State,
        /// The state it was to enter.
        to: pg_workflow_state_machine::State,
        /// Why not.
        source: Box<Error>,
    },
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Error::Postgres(error)
    }
}

impl Error {
    /// The SQLSTATE, where PostgreSQL gave one.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Error::Postgres(error) => error.code(),
            _ => None,
        }
    }

    /// Whether the same request may succeed when it is made again: the connection broke, or the server is starting,
    /// stopping, full or too slow.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Timeout(_) => true,
            Error::Postgres(error) => match error.code() {
                Some(code) => {
                    ["08", "53", "57P"].iter().any(|class| code.code().starts_with(class))
                        || code == &SqlState::T_R_DEADLOCK_DETECTED
                }
                None => true,
            },
            _ => false,
        }
    }

    /// What an operator can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            #[cfg(feature = "server")]
            Error::Redis(error) => redis::advice(error),
            Error::Move { source, .. } => source.advice(),
            _ => postgres_advice(self.code().map_or("", SqlState::code)),
        }
    }
}

fn postgres_advice(code: &str) -> &'static str {
    match code {
        "3F000" | "42883" | "42P01" => {
            "In that database, run: CREATE EXTENSION pg_workflow (or ALTER EXTENSION pg_workflow UPDATE)"
        }
        "42501" => {
            "Grant the role what it needs: EXECUTE on the functions of the schema workflow that it calls, SELECT on its tables"
        }
        "3D000" => "Create that database, or name another in DATABASE_URL (--database-url)",
        "25006" => {
            "That server is a standby: name the primary in DATABASE_URL, or all hosts and target_session_attrs=read-write"
        }
        "23514" | "40001" | "P0002" => "Something else moves or deletes it: leave it alone meanwhile",
        _ if code.starts_with("28") => "Check user and password in DATABASE_URL (--database-url), and pg_hba.conf",
        _ => "Check that PostgreSQL runs, that DATABASE_URL (--database-url) names it, and what its log says",
    }
}

/// One line: the driver keeps the cause apart from the message, and the server's detail on lines of its own.
fn postgres_message(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}
