//! Errors of this crate, and of the servers that it calls.

pub(crate) mod postgres;
#[cfg(feature = "redis")]
mod redis;

use std::time::Duration;

use pg_workflow_state_machine::State;
use serde_json::Value;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::entity::{Entity, UnknownEntityType};

/// Errors of this crate.
///
/// Each error that pg_workflow raises has a variant, read from SQLSTATE and DETAIL.
///
/// Programs need not parse messages. The message is complete, so [`source`](std::error::Error::source) returns nothing that
/// it contains: a report of the whole chain says nothing twice.
///
/// ```
/// use pg_workflow_client::Error;
///
/// /// Returns whether another worker was faster.
/// fn lost_the_race(error: &Error) -> bool {
///     matches!(error, Error::Stale { .. })
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The entity is not in the state, or not at the version, that the caller expected. Decide again from its current
    /// state.
    #[error("{}", postgres::message(cause))]
    Stale {
        /// The entity.
        entity: Entity,
        /// Its current state.
        current_state: State,
        /// Its current version.
        current_version: i64,
        /// The error of the server.
        cause: tokio_postgres::Error,
    },
    /// The claim is lost: its lease ran out and another worker can have the task, or a client moved the task by hand.
    #[error("{}", postgres::message(cause))]
    ClaimLost {
        /// The claim.
        claim: String,
        /// The task.
        task_instance_id: Uuid,
        /// Its current state; `None` if it does not exist.
        current_state: Option<State>,
        /// Its current version; `None` if it does not exist.
        current_version: Option<i64>,
        /// The error of the server.
        cause: tokio_postgres::Error,
    },
    /// The state machine does not allow the transition.
    #[error("{}", postgres::message(cause))]
    NotAllowed {
        /// The entity.
        entity: Entity,
        /// The state that it is in.
        from: State,
        /// The state that it was to enter.
        to: State,
        /// The states that it can enter.
        next_states: Vec<State>,
        /// The error of the server.
        cause: tokio_postgres::Error,
    },
    /// There is no such run, task, DAG, consumer or log line.
    #[error("{}", cause.as_ref().map_or_else(|| format!("there is no {entity_type} {entity_id}"), postgres::message))]
    NotFound {
        /// `dag_run`, `task_instance`, `dag`, `consumer` or `task_log`.
        entity_type: String,
        /// Its id or name.
        entity_id: String,
        /// The error of the server, if it raised one.
        cause: Option<tokio_postgres::Error>,
    },
    /// An argument is invalid.
    #[error("{}", postgres::message(cause))]
    Invalid {
        /// The argument or column.
        argument: String,
        /// Its value; null for dependencies, whose cycle or unknown task is in the message and in DETAIL.
        value: Value,
        /// The error of the server.
        cause: tokio_postgres::Error,
    },
    /// A DAG with that name, a run with that execution date, or a task with that name already exists.
    #[error("{}", postgres::message(cause))]
    AlreadyExists {
        /// The unique constraint, for example `dags_name_key`.
        constraint: String,
        /// The error of the server.
        cause: tokio_postgres::Error,
    },
    /// The role lacks a right.
    #[error("{}", postgres::message(cause))]
    Denied {
        /// The error of the server.
        cause: tokio_postgres::Error,
    },
    /// Another program holds the lease of this consumer.
    #[error("{}", postgres::message(cause))]
    Leased {
        /// The consumer.
        consumer: String,
        /// The holder, as it named itself.
        holder: Option<String>,
        /// The error of the server.
        cause: tokio_postgres::Error,
    },
    /// The consumer cannot get past this event: reading it fails.
    #[error("event {event_id} cannot be delivered to consumer \"{consumer}\": {cause}")]
    Undeliverable {
        /// The consumer.
        consumer: String,
        /// The id of the event.
        event_id: i64,
        /// The error of reading it.
        cause: Box<Error>,
    },
    /// A consumer that this program has read is gone. A new one of its name would skip events.
    #[error("consumer \"{consumer}\" no longer exists, or is a new one of that name, which would skip events")]
    ConsumerGone {
        /// The consumer.
        consumer: String,
    },
    /// The destination of a relay holds events of another database, or of this one before it was restored.
    #[error("{destination} holds events of another database ({found}); those of this one are of {own}")]
    OtherSource {
        /// The destination.
        destination: String,
        /// The source of its events.
        found: String,
        /// The source of the relay's events.
        own: String,
    },
    /// The destination of a relay failed when it got a large event.
    #[error("event {event_id} ({bytes} bytes): {cause}")]
    LargeEvent {
        /// The id of the event.
        event_id: i64,
        /// Its size as JSON.
        bytes: usize,
        /// The error of the destination.
        cause: Box<Error>,
    },
    /// The destination of a relay ended elsewhere than expected, several times in short succession.
    #[error("{destination} loses events, or another program writes to it, again and again")]
    Unstable {
        /// The destination.
        destination: String,
    },
    /// PostgreSQL raised another error, or the connection broke.
    #[error("{}", postgres::message(.0))]
    Postgres(tokio_postgres::Error),
    /// PostgreSQL did not respond in time.
    #[error("no response from PostgreSQL within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The database returned a value that this version of the library does not know.
    #[error("PostgreSQL returned {0}, which this version does not support")]
    Unknown(String),
    /// The connection string is invalid.
    #[error("invalid connection string: {0}; expected postgres://user:password@host:port/database")]
    ConnectionString(String),
    /// A pooler does not pass the `options` of the connection string on to PostgreSQL.
    #[error("a pooler before {server} drops the options of the connection string")]
    OptionsLost {
        /// The server, as [`PostgresServer`](crate::connect::PostgresServer) names it.
        server: String,
    },
    /// The text is not a cursor of this list.
    #[error("cursor \"{0}\" is not a next_cursor of this list")]
    Cursor(String),
    /// The Redis URL, or a certificate given with it, is invalid.
    #[cfg(feature = "redis")]
    #[error("invalid Redis URL: {0}; expected redis://user:password@host:port (rediss:// for TLS)")]
    RedisUrl(String),
    /// Redis returned an error, or the connection broke.
    #[cfg(feature = "redis")]
    #[error("{}", redis::message(.0))]
    Redis(::redis::RedisError),
    /// A publisher of your own failed: see [`Error::publisher`].
    #[error(transparent)]
    Publisher(Box<dyn std::error::Error + Send + Sync>),
    /// A value could not be written or read as JSON.
    #[error("cannot convert JSON: {}", json_reason(.0))]
    Json(serde_json::Error),
}

/// The parser has a limit of depth, jsonb has none.
fn is_too_deep(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("recursion limit exceeded")
}

fn json_reason(error: &serde_json::Error) -> String {
    match is_too_deep(error) {
        true => "it is nested deeper than 127 levels".to_owned(),
        false => error.to_string(),
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        postgres::classify(error)
    }
}

#[cfg(feature = "redis")]
impl From<::redis::RedisError> for Error {
    fn from(error: ::redis::RedisError) -> Self {
        Error::Redis(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Json(error)
    }
}

impl From<UnknownEntityType> for Error {
    fn from(error: UnknownEntityType) -> Self {
        Error::Unknown(format!("an {error}"))
    }
}

impl Error {
    pub(crate) fn not_found(entity_type: &str, id: impl ToString) -> Error {
        Error::NotFound { entity_type: entity_type.to_owned(), entity_id: id.to_string(), cause: None }
    }

    /// Wraps an error, or a text, of a [publisher](crate::publisher) of your own.
    ///
    /// The relay waits and retries.
    ///
    /// ```
    /// use pg_workflow_client::Error;
    ///
    /// let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    /// assert_eq!(Error::publisher(full).to_string(), "no storage space");
    /// ```
    pub fn publisher(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Publisher(cause.into())
    }

    /// Returns the error of PostgreSQL, if there is one.
    fn postgres(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Error::Stale { cause, .. }
            | Error::ClaimLost { cause, .. }
            | Error::NotAllowed { cause, .. }
            | Error::NotFound { cause: Some(cause), .. }
            | Error::Invalid { cause, .. }
            | Error::AlreadyExists { cause, .. }
            | Error::Denied { cause }
            | Error::Leased { cause, .. }
            | Error::Postgres(cause) => Some(cause),
            Error::Undeliverable { cause, .. } => cause.postgres(),
            _ => None,
        }
    }

    /// Returns the SQLSTATE, if PostgreSQL raised the error.
    pub fn code(&self) -> Option<&SqlState> {
        self.postgres()?.code()
    }

    /// Returns whether a retry of the same request may succeed.
    ///
    /// That is so if the connection broke, if the server is starting, stopping, full or too slow, or if another
    /// transaction was in the way (then repeat the whole transaction). It is never so for errors that pg_workflow
    /// raises.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Timeout(_) => true,
            Error::Postgres(error) => postgres::is_outage(error),
            _ => false,
        }
    }

    /// Returns whether the error can come from the content of a row, rather than from the server or the request.
    #[cfg(feature = "relay")]
    pub(crate) fn is_about_a_row(&self) -> bool {
        match self {
            Error::Unknown(_) | Error::Json(_) => true,
            Error::Postgres(error) => postgres::is_about_a_row(error),
            _ => false,
        }
    }

    /// Returns whether the server responded and rejected the request, rather than not responding.
    pub(crate) fn is_rejection(&self) -> bool {
        match self {
            #[cfg(feature = "redis")]
            Error::Redis(error) => error.code().is_some(),
            Error::OptionsLost { .. }
            | Error::ConsumerGone { .. }
            | Error::OtherSource { .. }
            | Error::LargeEvent { .. } => true,
            _ => self.code().is_some() && !self.is_transient(),
        }
    }

    /// Returns a hint for the operator: how to remove the cause.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Stale { .. } => "Another client changed it first. Re-read it and decide again",
            Error::ClaimLost { .. } => {
                "Stop this work. Renew claims more often, or claim with a longer lease, if no client moved the task by hand"
            }
            Error::NotAllowed { .. } => "Re-read it, and choose a state that it can enter from its current one",
            Error::NotFound { .. } => "Check the id or the name. The row may have been deleted",
            Error::Invalid { .. } => "Correct the argument",
            Error::AlreadyExists { .. } => "Use another name or execution date, or the existing row",
            Error::Denied { .. } => {
                "Grant the role EXECUTE on the functions of the schema workflow that it calls, and SELECT on its tables"
            }
            Error::Leased { .. } => "Wait until the lease expires, or use another consumer",
            Error::Undeliverable { .. } => {
                "Correct that event, or skip it knowingly, as an administrator: SELECT workflow.skip_event(CONSUMER, EVENT)"
            }
            Error::ConsumerGone { .. } => {
                "Let it begin with the first stored event: SELECT workflow.create_consumer(CONSUMER, true), after \
                 drop_consumer(CONSUMER) if it exists. Events that the destination holds are not repeated"
            }
            Error::OtherSource { .. } => {
                "Give each database its own --stream and --channel. If this is the same database, restored or moved, set \
                 --adopt-stream (WORKFLOW_ADOPT_STREAM) to the source in parentheses"
            }
            Error::LargeEvent { cause, .. } => match &**cause {
                #[cfg(feature = "redis")]
                Error::Redis(error) => redis::hint_of_large(error),
                cause => cause.hint(),
            },
            Error::Unstable { .. } => {
                "Set the maxmemory-policy of Redis to noeviction, and stop other programs that write to the stream, trim or \
                 delete it"
            }
            Error::OptionsLost { .. } => {
                "Connect directly, or remove the options and set these values for the role: ALTER ROLE … SET"
            }
            Error::Postgres(error) => postgres::hint(error),
            Error::Timeout(_) => postgres::CHECK_STANDBYS,
            #[cfg(feature = "redis")]
            Error::Redis(error) => redis::hint(error),
            Error::Json(error) if is_too_deep(error) => "Read it as text: as serde_json::value::RawValue",
            Error::Publisher(_) => "Check the destination. PostgreSQL keeps the events meanwhile",
            _ => postgres::CHECK_SERVER,
        }
    }
}
