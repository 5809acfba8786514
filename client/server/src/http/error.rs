//! Errors as HTTP responses.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use pg_workflow_client::Error;
use pg_workflow_client::tokio_postgres::error::SqlState;
use serde::Serialize;
use utoipa::ToSchema;

pub const PROBLEM_JSON: &str = "application/problem+json";

/// The reason why a request failed.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    pub(super) message: String,
    pub(super) parameter: Option<String>,
}

/// The body of an error response, as RFC 9457 defines it.
#[derive(Serialize, ToSchema)]
pub struct Problem {
    /// The text of the HTTP status.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// For people, the same as `error.message`.
    detail: String,
    error: ProblemDetail,
}

/// An error.
#[derive(Serialize, ToSchema)]
struct ProblemDetail {
    /// `bad_request`, `unauthorized`, `not_found`, `method_not_allowed`, `misdirected`, `internal`, `rejected` or
    /// `unavailable`.
    code: &'static str,
    /// For people.
    message: String,
    /// The invalid parameter, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), parameter: None }
    }

    pub fn parameter(name: &str, problem: &str) -> ApiError {
        let message = format!("parameter \"{name}\" {problem}");
        let error = ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message);
        ApiError { parameter: Some(name.to_owned()), ..error }
    }

    pub fn not_found(message: String) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub fn unauthorized() -> ApiError {
        let message = "missing or wrong token; send it as Authorization: Bearer TOKEN";
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub fn misdirected(host: &str) -> ApiError {
        let host: String = host.chars().take(100).collect();
        let message = format!("host \"{host}\" is not served here; allow its name with --allowed-host");
        ApiError::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", message)
    }

    pub fn unavailable(message: &str) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub fn is_unavailable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    pub fn no_database() -> ApiError {
        ApiError::unavailable("database unavailable; see GET /health")
    }

    pub fn internal() -> ApiError {
        let message = "internal error; see the log of workflow-server";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let ApiError { status, code, message, parameter } = self;
        let problem = Json(Problem {
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: message.clone(),
            error: ProblemDetail { code, message, parameter },
        });
        let problem = ([(CONTENT_TYPE, PROBLEM_JSON)], problem);
        if status == StatusCode::UNAUTHORIZED {
            return (status, [(WWW_AUTHENTICATE, "Bearer")], problem).into_response();
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return (status, [(RETRY_AFTER, "1")], problem).into_response();
        }
        (status, problem).into_response()
    }
}

impl From<Error> for ApiError {
    /// Only the log has the cause: it can name hosts and roles.
    fn from(error: Error) -> ApiError {
        if error.code() == Some(&SqlState::QUERY_CANCELED) {
            return ApiError::unavailable("list timed out after 5 s; narrow it with more parameters");
        }
        match (&error, error.code().map(SqlState::code)) {
            (Error::Cursor(_), _) => ApiError::parameter("cursor", &format!("is invalid: {error}")),
            (Error::Postgres(_) | Error::Timeout(_), code) if error.is_transient() || is_unusable(code) => {
                tracing::warn!("request failed: {error}. {}", error.hint());
                ApiError::no_database()
            }
            (Error::OptionsLost { .. }, _) => {
                tracing::warn!("request failed: {error}. {}", error.hint());
                ApiError::no_database()
            }
            (_, Some(code)) => {
                tracing::error!("request failed: {error}. {}", error.hint());
                let message = format!("the database rejects the request ({code}); see the log of workflow-server");
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "rejected", message)
            }
            _ => {
                tracing::error!("request failed: {error}");
                ApiError::internal()
            }
        }
    }
}

/// Returns whether an error is one of the connection (no SQLSTATE, or a rejected login), or says that the database does not
/// exist or lacks the extension: `/health` has the same.
fn is_unusable(code: Option<&str>) -> bool {
    code.is_none_or(|code| code.starts_with("28") || ["3D000", "3F000"].contains(&code))
}

pub async fn unknown_path(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::not_found(format!("no such path {path}; try /, /openapi.json or /api/v1/dags"))
}

pub async fn unsupported_method(method: Method) -> ApiError {
    let message = format!("method {method} is not supported; use GET");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
