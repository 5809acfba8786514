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
use pg_workflow_client::list::List;

/// A page of a list, with these fields of each row.
pub struct Page<T> {
    list: List<T>,
    fields: Vec<String>,
}

impl<T> Page<T> {
    pub fn new<S>(list: List<T>, fields: Option<Fields<S>>) -> Page<T> {
        Page { list, fields: fields.map_or(Vec::new(), |fields| fields.0) }
    }
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        if self.fields.is_empty() {
            return Json(self.list).into_response();
        }
        let picked: Result<Vec<Picked<'_>>, _> =
            self.list.items.iter().map(|row| Picked::new(row, &self.fields)).collect();
        match picked {
            Ok(items) => Json(List { items, next_cursor: self.list.next_cursor }).into_response(),
            Err(error) => Refusal::from(Error::Json(error)).into_response(),
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
pub struct Refusal {
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

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into(), parameter: None }
    }

    pub fn parameter(name: &str, why: &str) -> Refusal {
        let message = format!("parameter \"{name}\" {why}");
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "bad_request", message);
        Refusal { parameter: Some(name.to_owned()), ..refusal }
    }

    pub fn not_found(message: String) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub fn unauthorized() -> Refusal {
        let message = "give the server's token: Authorization: Bearer …";
        Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub fn unavailable(message: &str) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub fn no_database() -> Refusal {
        Refusal::unavailable("the database cannot be asked now; GET /health says why")
    }

    pub fn internal() -> Refusal {
        let message = "something is wrong with the server; its log says what";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Refusal { status, code, message, parameter } = self;
        let problem = Json(Problem { error: ProblemDetail { code, message, parameter } });
        if status == StatusCode::UNAUTHORIZED {
            return (status, [(WWW_AUTHENTICATE, "Bearer")], problem).into_response();
        }
        (status, problem).into_response()
    }
}

impl From<Error> for Refusal {
    /// The cause goes to the log: it may name hosts and roles.
    fn from(error: Error) -> Refusal {
        if error.code() == Some(&SqlState::QUERY_CANCELED) {
            return Refusal::unavailable("the list took longer than 5 s; narrow it down with more parameters");
        }
        match error {
            Error::Cursor(_) => Refusal::parameter("cursor", &format!("makes no sense: {error}")),
            Error::Postgres(_) | Error::Denied { .. } | Error::Timeout(_) => {
                tracing::warn!("a request failed: {error}. {}", error.advice());
                Refusal::no_database()
            }
            _ => {
                tracing::error!("a request failed: {error}");
                Refusal::internal()
            }
        }
    }
}

pub async fn no_such_path(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(100).collect();
    Refusal::not_found(format!("there is no {path}; try /, /openapi.json or /api/v1/dags"))
}

pub async fn wrong_method(method: Method) -> Refusal {
    let message = format!("{method} cannot be used here; use GET");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
