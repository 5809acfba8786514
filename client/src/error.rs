//! What can go wrong between this crate and the servers it talks to.

mod postgres;
#[cfg(feature = "redis")]
mod redis;

use std::time::Duration;

use pg_workflow_state_machine::State;
use serde_json::Value;
use tokio_postgres::error::SqlState;

use crate::entity::{Entity, UnknownEntityType};

/// Why something was not done. What the database refuses comes as a variant of its own, read from the SQLSTATE and the
/// DETAIL: nobody need look into a message.
///
/// ```
/// use pg_workflow_client::Error;
///
/// /// Whether another worker was faster.
/// fn lost_the_race(error: &Error) -> bool {
///     matches!(error, Error::Stale { .. })
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The entity is not in the state, or at the version, that the move expected. Decide again from what it is now.
    #[error("{}", postgres::message(source))]
    Stale {
        /// Which entity.
        entity: Entity,
        /// Its state now.
        current_state: State,
        /// Its version now.
        current_version: i64,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// The state machine has no such move.
    #[error("{}", postgres::message(source))]
    NotAllowed {
        /// Which entity.
        entity: Entity,
        /// The state it is in.
        from: State,
        /// The state it was to enter.
        to: State,
        /// The states that it can enter.
        next_states: Vec<State>,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// There is no such run, task, DAG, consumer or line of a log.
    #[error("{}", source.as_ref().map_or_else(|| format!("there is no {entity_type} {entity_id}"), postgres::message))]
    NotFound {
        /// `dag_run`, `task_instance`, `dag`, `consumer` or `task_log`.
        entity_type: String,
        /// Its id, or its name.
        entity_id: String,
        /// What the server said, where it said anything.
        source: Option<tokio_postgres::Error>,
    },
    /// An argument makes no sense.
    #[error("{}", postgres::message(source))]
    Invalid {
        /// Which argument, or which column.
        argument: String,
        /// What it was.
        value: Value,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// There is one already: a DAG of that name, a run of that date, a task of that name.
    #[error("{}", postgres::message(source))]
    AlreadyExists {
        /// The unique constraint, for example `dags_name_key`.
        constraint: String,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// The role may not do that.
    #[error("{}", postgres::message(source))]
    Denied {
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// Somebody else reads as this consumer.
    #[error("{}", postgres::message(source))]
    Leased {
        /// The consumer.
        consumer: String,
        /// Who reads, in its own words.
        holder: Option<String>,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// PostgreSQL refused for another reason, or the connection to it broke.
    #[error("{}", postgres::message(.0))]
    Postgres(#[source] tokio_postgres::Error),
    /// PostgreSQL did not answer in time.
    #[error("no answer from PostgreSQL within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// PostgreSQL answered something that this version does not know.
    #[error("PostgreSQL answered {0}, which this version does not know; upgrade pg-workflow-client (workflow-server)")]
    Unknown(String),
    /// The connection string makes no sense.
    #[error("not a connection string: {0}; expected postgres://user:password@host:port/database")]
    ConnectionString(String),
    /// The text is not a cursor of this list.
    #[error("\"{0}\" is not the next_cursor of a page of this list")]
    Cursor(String),
    /// The Redis URL makes no sense, or the certificates given with it.
    #[cfg(feature = "redis")]
    #[error("not a way to Redis: {0}; expected redis://user:password@host:port (rediss:// for TLS)")]
    RedisUrl(String),
    /// Redis refused, or the connection to it broke.
    #[cfg(feature = "redis")]
    #[error("{}", redis::message(.0))]
    Redis(#[from] ::redis::RedisError),
    /// A destination of events that is not one of ours failed: see [`Error::publisher`].
    #[error("{0}")]
    Publisher(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something could not be written or read as JSON.
    #[error("cannot convert JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        postgres::classify(error)
    }
}

impl From<UnknownEntityType> for Error {
    fn from(error: UnknownEntityType) -> Self {
        Error::Unknown(format!("an {error}"))
    }
}

impl Error {
    pub(crate) fn not_found(entity_type: &str, id: impl ToString) -> Error {
        Error::NotFound { entity_type: entity_type.to_owned(), entity_id: id.to_string(), source: None }
    }

    /// What kept a [publisher](crate::publisher) of your own from taking events: an error, or a text. The relay waits and
    /// tries again.
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

    /// What PostgreSQL said, where it did.
    fn postgres(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Error::Stale { source, .. }
            | Error::NotAllowed { source, .. }
            | Error::NotFound { source: Some(source), .. }
            | Error::Invalid { source, .. }
            | Error::AlreadyExists { source, .. }
            | Error::Denied { source }
            | Error::Leased { source, .. }
            | Error::Postgres(source) => Some(source),
            _ => None,
        }
    }

    /// The SQLSTATE, where PostgreSQL gave one.
    pub fn code(&self) -> Option<&SqlState> {
        self.postgres()?.code()
    }

    /// Whether the same request may succeed when it is made again: the connection broke, or the server is starting,
    /// stopping, full or too slow, or another transaction was in the way (the whole transaction must then be repeated).
    /// Never true for what pg_workflow has refused.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Timeout(_) => true,
            Error::Postgres(error) => postgres::is_outage(error),
            _ => false,
        }
    }

    /// Returns whether the server responded and rejected the request, rather than not responding.
    #[cfg(feature = "relay")]
    pub(crate) fn is_rejection(&self) -> bool {
        match self {
            #[cfg(feature = "redis")]
            Error::Redis(error) => error.code().is_some(),
            _ => false,
        }
    }

    /// Says what an operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Stale { .. } | Error::NotAllowed { .. } | Error::NotFound { .. } => {
                "Something else moves or deletes it: leave it alone meanwhile"
            }
            Error::Invalid { .. } => "Correct that argument",
            Error::AlreadyExists { .. } => "Take another name or date, or use what is there",
            Error::Denied { .. } => {
                "Grant the role what it needs: EXECUTE on the functions of the schema workflow that it calls, SELECT on its \
                 tables"
            }
            Error::Leased { .. } => "Wait until the other reader has ended, or read as another consumer",
            Error::Postgres(error) => postgres::hint(error),
            #[cfg(feature = "redis")]
            Error::Redis(error) => redis::hint(error),
            Error::Publisher(_) => {
                "See what keeps the destination from taking events; they are kept in PostgreSQL meanwhile"
            }
            _ => postgres::CHECK_SERVER,
        }
    }
}
