//! Errors of PostgreSQL: from SQLSTATE and DETAIL to a variant, and what to do about them.

use pg_workflow_state_machine::State;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::{Entity, Error};
use crate::event::EntityType;

#[derive(Deserialize)]
struct Stale {
    entity_type: EntityType,
    entity_id: Uuid,
    current_state: State,
    current_version: i64,
}

#[derive(Deserialize)]
struct Illegal {
    entity_type: EntityType,
    entity_id: Uuid,
    from: State,
    to: State,
    next_states: Vec<State>,
}

#[derive(Deserialize)]
struct NotFound {
    entity_type: String,
    entity_id: String,
}

#[derive(Deserialize)]
struct Invalid {
    argument: String,
    value: Value,
}

#[derive(Deserialize)]
struct Leased {
    consumer: String,
    holder: Option<String>,
}

/// PostgreSQL itself raises some of these SQLSTATEs too, without our DETAIL: those stay [`Error::Postgres`].
pub fn classify(source: tokio_postgres::Error) -> Error {
    match source.code().map_or("", |code| code.code()) {
        "40001" => match detail::<Stale>(&source) {
            Some(Stale { entity_type, entity_id: id, current_state, current_version }) => {
                Error::Stale { entity: Entity { entity_type, id }, current_state, current_version, source }
            }
            None => Error::Postgres(source),
        },
        "23514" => match detail::<Illegal>(&source) {
            Some(Illegal { entity_type, entity_id: id, from, to, next_states }) => {
                Error::Illegal { entity: Entity { entity_type, id }, from, to, next_states, source }
            }
            None => Error::Postgres(source),
        },
        "P0002" => match detail::<NotFound>(&source) {
            Some(NotFound { entity_type, entity_id }) => {
                Error::NotFound { entity_type, entity_id, source: Some(source) }
            }
            None => Error::Postgres(source),
        },
        "22023" => match detail::<Invalid>(&source) {
            Some(Invalid { argument, value }) => Error::Invalid { argument, value, source },
            None => Error::Postgres(source),
        },
        "55006" => match detail::<Leased>(&source) {
            Some(Leased { consumer, holder }) => Error::Leased { consumer, holder, source },
            None => Error::Postgres(source),
        },
        "23505" => match source.as_db_error().and_then(|error| error.constraint()).map(str::to_owned) {
            Some(constraint) => Error::AlreadyExists { constraint, source },
            None => Error::Postgres(source),
        },
        "42501" => Error::Denied { source },
        _ => Error::Postgres(source),
    }
}

fn detail<T: DeserializeOwned>(error: &tokio_postgres::Error) -> Option<T> {
    serde_json::from_str(error.as_db_error()?.detail()?).ok()
}

pub fn advice(code: &str) -> &'static str {
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
pub fn message(error: &tokio_postgres::Error) -> String {
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
