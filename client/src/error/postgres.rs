//! Errors of PostgreSQL: their variants, by SQLSTATE and DETAIL, and their hints.

use std::error::Error;

use pg_workflow_state_machine::State;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::entity::{Entity, EntityType};

#[derive(Deserialize)]
struct Stale {
    entity_type: EntityType,
    entity_id: Uuid,
    current_state: State,
    current_version: i64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Conflict {
    ClaimLost(ClaimLost),
    Stale(Stale),
}

#[derive(Deserialize)]
struct ClaimLost {
    claim: String,
    entity_id: Uuid,
    current_state: Option<State>,
    current_version: Option<i64>,
}

#[derive(Deserialize)]
struct NotAllowed {
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
    /// Dependencies have the names of the tasks instead.
    #[serde(default)]
    value: Value,
}

#[derive(Deserialize)]
struct Leased {
    consumer: String,
    holder: Option<String>,
}

/// Converts an error. PostgreSQL itself raises some of these SQLSTATEs too, without the DETAIL of pg_workflow: those
/// stay [`Postgres`](crate::Error::Postgres).
pub fn classify(cause: tokio_postgres::Error) -> crate::Error {
    match cause.code().map_or("", |code| code.code()) {
        "40001" => match detail::<Conflict>(&cause) {
            Some(Conflict::ClaimLost(ClaimLost {
                claim,
                entity_id: task_instance_id,
                current_state,
                current_version,
            })) => crate::Error::ClaimLost { claim, task_instance_id, current_state, current_version, cause },
            Some(Conflict::Stale(Stale { entity_type, entity_id: id, current_state, current_version })) => {
                crate::Error::Stale { entity: Entity { entity_type, id }, current_state, current_version, cause }
            }
            None => crate::Error::Postgres(cause),
        },
        "23514" => match detail::<NotAllowed>(&cause) {
            Some(NotAllowed { entity_type, entity_id: id, from, to, next_states }) => {
                crate::Error::NotAllowed { entity: Entity { entity_type, id }, from, to, next_states, cause }
            }
            None => crate::Error::Postgres(cause),
        },
        "P0002" => match detail::<NotFound>(&cause) {
            Some(NotFound { entity_type, entity_id }) => {
                crate::Error::NotFound { entity_type, entity_id, cause: Some(cause) }
            }
            None => crate::Error::Postgres(cause),
        },
        "22023" => match detail::<Invalid>(&cause) {
            Some(Invalid { argument, value }) => crate::Error::Invalid { argument, value, cause },
            None => crate::Error::Postgres(cause),
        },
        "55006" => match detail::<Leased>(&cause) {
            Some(Leased { consumer, holder }) => crate::Error::Leased { consumer, holder, cause },
            None => crate::Error::Postgres(cause),
        },
        "23505" => match cause.as_db_error().and_then(|error| error.constraint()).map(str::to_owned) {
            Some(constraint) => crate::Error::AlreadyExists { constraint, cause },
            None => crate::Error::Postgres(cause),
        },
        "42501" => crate::Error::Denied { cause },
        _ => crate::Error::Postgres(cause),
    }
}

fn detail<T: DeserializeOwned>(error: &tokio_postgres::Error) -> Option<T> {
    serde_json::from_str(error.as_db_error()?.detail()?).ok()
}

fn server_hint(error: &tokio_postgres::Error) -> &str {
    error.as_db_error().and_then(|error| error.hint()).unwrap_or_default()
}

/// Returns the hint for an error that has no variant of its own.
pub fn hint(error: &tokio_postgres::Error) -> &'static str {
    match error.code().map_or("", SqlState::code) {
        "" if is_about_tls(error) => {
            "Check in DATABASE_URL: sslmode (require encrypts, verify-full also checks the server), sslrootcert (the file of the \
             authority that signed the server's certificate), the host's name, which must be in that certificate (as a \
             subjectAltName: a CN is not read), and sslcert and sslkey if the server requires a certificate"
        }
        "3F000" | "42883" | "42P01" => {
            "In that database, run: CREATE EXTENSION pg_workflow (or ALTER EXTENSION pg_workflow UPDATE)"
        }
        "3D000" => "Create that database, or name another in DATABASE_URL (--database-url)",
        "25006" => READ_ONLY,
        "" if error.to_string().contains("error connecting") && causes(error).any(is_read_only) => READ_ONLY,
        "40001" => "Repeat the transaction from its beginning",
        // PostgreSQL raises this SQLSTATE for other reasons too.
        "55000" if server_hint(error).contains("finish_copy") => {
            "When the restore is complete, call SELECT * FROM workflow.finish_copy() as the owner of the extension"
        }
        "55000" if server_hint(error).contains("resume_consumer") => {
            "The consumer lagged too far and was given up: continue with SELECT workflow.resume_consumer(CONSUMER), or drop \
             it with SELECT workflow.drop_consumer(CONSUMER)"
        }
        code if code.starts_with("28") => {
            "Check user and password in DATABASE_URL (--database-url), PGPASSWORD or ~/.pgpass (of mode 0600), and pg_hba.conf, which may also ask for TLS \
             (sslmode=require) or a certificate (sslcert and sslkey)"
        }
        code if code.starts_with("23") => "Correct the values: they violate a constraint of the table",
        _ => CHECK_SERVER,
    }
}

/// The hint if the session may not write.
const READ_ONLY: &str = "If that server is a standby, name the primary in DATABASE_URL, or all hosts. Otherwise \
                         default_transaction_read_only is on: reset it for the role and the database (ALTER ROLE or ALTER \
                         DATABASE … RESET default_transaction_read_only)";

/// The driver found no host that accepts writes.
fn is_read_only(cause: &(dyn Error + 'static)) -> bool {
    cause.to_string().contains("does not allow writes")
}

/// The hint if PostgreSQL did not respond.
pub const CHECK_SERVER: &str =
    "Check that PostgreSQL runs and that DATABASE_URL (--database-url) names it, and read its log";

/// The hint if it did not respond in time: a commit, and a read of new events, wait for the synchronous standbys.
pub const CHECK_STANDBYS: &str = "Check that PostgreSQL runs and that DATABASE_URL (--database-url) names it, that its \
                                  synchronous standbys are connected, and read its log";

/// Returns whether TLS failed. The driver does not expose the kind of an error.
fn is_about_tls(error: &tokio_postgres::Error) -> bool {
    causes(error).any(|cause| cause.is::<rustls::Error>()) || error.to_string() == "error performing TLS handshake"
}

/// Returns whether the content of a row can be the cause: it exceeds a limit, is damaged, or has an unknown value.
#[cfg(feature = "relay")]
pub fn is_about_a_row(error: &tokio_postgres::Error) -> bool {
    match error.code().map(SqlState::code) {
        Some(code) => ["22", "54", "XX"].iter().any(|class| code.starts_with(class)) || code == "53200",
        // The driver does not expose the kind of an error.
        None => error.to_string().starts_with("error deserializing column"),
    }
}

/// Returns whether the connection failed in a way that a retry may not.
pub fn is_outage(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code() else {
        // A connection that ends during a TLS handshake is an outage too; a rejected certificate is not.
        let is_refused = causes(error).any(|cause| cause.is::<rustls::Error>());
        return error.is_closed() || !is_refused && causes(error).any(|cause| cause.is::<std::io::Error>());
    };
    // Serialization failures of PostgreSQL itself, and deadlocks: another transaction was in the way.
    let in_the_way = [&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED].contains(&code);
    // A statement that exceeds its time limit is canceled.
    in_the_way || code == &SqlState::QUERY_CANCELED || is_unavailable(code)
}

/// Returns whether the server does not run statements: it starts, stops or is full, or the connection broke.
pub fn is_unavailable(code: &SqlState) -> bool {
    ["08", "53", "57P"].iter().any(|class| code.code().starts_with(class))
}

/// Returns the causes of an error.
fn causes(error: &tokio_postgres::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |error| below(*error))
}

/// An `io::Error` returns as its source the source of the error that it wraps, so the wrapped error is included too.
fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// Returns one line. The driver separates the cause from the message, and puts the DETAIL on lines of its own.
pub fn message(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}
