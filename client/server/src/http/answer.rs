//! Answers: lists with the fields that were asked for, and what is said when there is no answer.

use axum::Json;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use pg_workflow_client::tokio_postgres::error::SqlState;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;
use std::collections::HashMap;
use utoipa::ToSchema;

use super::parameters::Fields;
use pg_workflow_client::Error;
use pg_workflow_client::list::Page;

/// A page of a list, with these fields of each row.
pub struct PageResponse<T> {
    list: Page<T>,
    fields: Vec<String>,
}

impl<T> PageResponse<T> {
    pub fn new<S>(list: Page<T>, fields: Option<Fields<S>>) -> PageResponse<T> {
        PageResponse { list, fields: fields.map_or(Vec::new(), |fields| fields.0) }
    }
}

impl<T: Serialize> IntoResponse for PageResponse<T> {
    fn into_response(self) -> Response {
        if self.fields.is_empty() {
            return Json(self.list).into_response();
        }
        let picked: Result<Vec<Picked<'_>>, _> =
            self.list.items.iter().map(|row| Picked::new(row, &self.fields)).collect();
        match picked {
            Ok(items) => Json(Page { items, next_cursor: self.list.next_cursor }).into_response(),
            Err(error) => ApiError::from(Error::Json(error)).into_response(),
        }
    }
}

/// Some fields of a row. As text: a number that is parsed and written again may be another.
struct Picked<'a> {
    fields: &'a [String],
    values: HashMap<String, Box<RawValue>>,
}

impl<'a> Picked<'a> {
    fn new(row: &impl Serialize, fields: &'a [String]) -> Result<Picked<'a>, serde_json::Error> {
        Ok(Picked { fields, values: serde_json::from_str(&serde_json::to_string(row)?)? })
    }
}

impl Serialize for Picked<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for field in self.fields {
            map.serialize_entry(field, &self.values.get(field))?;
        }
        map.end()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    pub(super) message: String,
    pub(super) parameter: Option<String>,
}

/// What is said then.
#[derive(Serialize, ToSchema)]
pub struct Problem {
    error: ProblemDetail,
}

/// What is wrong.
#[derive(Serialize, ToSchema)]
struct ProblemDetail {
    /// `bad_request`, `unauthorized`, `not_found`, `method_not_allowed`, `internal` or `unavailable`.
    code: &'static str,
    /// For people.
    message: String,
    /// The parameter that is wrong, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), parameter: None }
    }

    pub fn parameter(name: &str, why: &str) -> ApiError {
        let message = format!("parameter \"{name}\" {why}");
        let refusal = ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message);
        ApiError { parameter: Some(name.to_owned()), ..refusal }
    }

    pub fn not_found(message: String) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub fn unauthorized() -> ApiError {
        let message = "give the server's token: Authorization: Bearer …";
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub fn unavailable(message: &str) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub fn no_database() -> ApiError {
        ApiError::unavailable("the database cannot be asked now; GET /health says why")
    }

    pub fn internal() -> ApiError {
        let message = "something is wrong with the server; its log says what";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let ApiError { status, code, message, parameter } = self;
        let problem = Json(Problem { error: ProblemDetail { code, message, parameter } });
        if status == StatusCode::UNAUTHORIZED {
            return (status, [(WWW_AUTHENTICATE, "Bearer")], problem).into_response();
        }
        (status, problem).into_response()
    }
}

impl From<Error> for ApiError {
    /// The cause goes to the log: it may name hosts and roles.
    fn from(error: Error) -> ApiError {
        if error.code() == Some(&SqlState::QUERY_CANCELED) {
            return ApiError::unavailable("the list took longer than 5 s; narrow it down with more parameters");
        }
        match error {
            Error::Cursor(_) => ApiError::parameter("cursor", &format!("makes no sense: {error}")),
            Error::Postgres(_) | Error::Denied { .. } | Error::Timeout(_) => {
                tracing::warn!("a request failed: {error}. {}", error.hint());
                ApiError::no_database()
            }
            _ => {
                tracing::error!("a request failed: {error}");
                ApiError::internal()
            }
        }
    }
}

pub async fn no_such_path(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::not_found(format!("there is no {path}; try /, /openapi.json or /api/v1/dags"))
}

pub async fn wrong_method(method: Method) -> ApiError {
    let message = format!("{method} cannot be used here; use GET");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
