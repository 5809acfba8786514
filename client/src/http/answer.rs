//! Answers that are not the thing asked for: `{"error":{"code":"not_found","message":"…"}}`.

use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::Error;

/// Why there is no answer.
pub enum Refusal {
    BadRequest(String),
    NotFound(String),
    MethodNotAllowed(String),
    Unavailable(String),
    Internal,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Refusal::BadRequest(message) => (StatusCode::BAD_REQUEST, "bad_request", message),
            Refusal::NotFound(message) => (StatusCode::NOT_FOUND, "not_found", message),
            Refusal::MethodNotAllowed(message) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message),
            Refusal::Unavailable(message) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", message),
            Refusal::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "something is wrong with the server; its log says what".to_owned(),
            ),
        };
        (status, Json(json!({ "error": { "code": code, "message": message } }))).into_response()
    }
}

impl From<Error> for Refusal {
    /// The cause goes to the log: it may name hosts and roles.
    fn from(error: Error) -> Refusal {
        if error.code() == Some(&SqlState::QUERY_CANCELED) {
            return Refusal::Unavailable(
                "the list took longer than 5 s; narrow it down with more parameters".to_owned(),
            );
        }
        match error {
            Error::Cursor(_) => Refusal::BadRequest(format!("parameter \"cursor\": {error}")),
            Error::Postgres(_) | Error::Denied { .. } | Error::Timeout(_) => {
                tracing::warn!("a request failed: {error}. {}", error.advice());
                no_database()
            }
            _ => {
                tracing::error!("a request failed: {error}");
                Refusal::Internal
            }
        }
    }
}

pub fn no_database() -> Refusal {
    Refusal::Unavailable("the database cannot be asked now; GET /health says why".to_owned())
}

pub async fn no_such_path(uri: Uri) -> Refusal {
    Refusal::NotFound(format!("there is no {}; try /health or /api/v1/dags", uri.path()))
}

pub async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal::MethodNotAllowed(format!("{} cannot be used with {method}; use GET", uri.path()))
}
