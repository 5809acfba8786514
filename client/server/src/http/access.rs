//! Access to the server: the token, the request id, and one log line per request.
//!
//! tower-http cannot do these: its request-id layer keeps any id that a client sends, its bearer layer compares the
//! token in variable time and the scheme by case, and its trace layer logs the request apart from the response.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tracing::Instrument;
use uuid::Uuid;

use super::error::ApiError;

/// Sent to the client and logged, so that one can be found by the other.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;
/// The web UI contains no data, and monitoring needs none.
pub const PUBLIC_PATHS: [&str; 4] = ["/", "/health", "/livez", "/readyz"];

/// Marks the request of a client that sent the token. Without a token, all clients are anonymous.
#[derive(Clone, Copy)]
pub struct Authorized;

/// The token that clients must send, if any.
#[derive(Clone)]
pub struct Token(Option<Arc<str>>);

impl Token {
    pub fn new(token: Option<&str>) -> Token {
        Token(token.map(Arc::from))
    }

    fn is_in(&self, request: &Request) -> bool {
        let Some(token) = &self.0 else { return false };
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer") && bool::from(given.trim().as_bytes().ct_eq(token.as_bytes()))
        })
    }
}

pub async fn check_token(State(token): State<Token>, mut request: Request, next: Next) -> Response {
    if token.is_in(&request) {
        request.extensions_mut().insert(Authorized);
    } else if token.0.is_some() && !PUBLIC_PATHS.contains(&request.uri().path()) {
        return ApiError::unauthorized().into_response();
    }
    next.run(request).await
}

/// Gives the request an id, or keeps the id from a proxy, and logs the response.
pub async fn identify_and_log(request: Request, next: Next) -> Response {
    let id = request.headers().get(&REQUEST_ID).filter(|id| is_valid_id(id)).cloned();
    let id = id.or_else(|| HeaderValue::from_str(&Uuid::now_v7().to_string()).ok());
    let (method, uri, began) = (request.method().clone(), request.uri().clone(), Instant::now());
    let request_id = id.as_ref().and_then(|id| id.to_str().ok());
    // Of each level: a line about the request has its id, whatever is logged.
    let span = tracing::error_span!("request", request_id);
    let mut response = next.run(request).instrument(span).await;
    tracing::info!(
        target: "http",
        method = method.as_str(),
        path = uri.path(),
        query = uri.query(),
        status = response.status().as_u16(),
        milliseconds = began.elapsed().as_secs_f64() * 1e3,
        request_id,
        "request"
    );
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(id) = id {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// The id goes into the log: it must be short and have no control characters.
fn is_valid_id(id: &HeaderValue) -> bool {
    id.len() <= MAX_REQUEST_ID && !id.is_empty() && id.as_bytes().iter().all(u8::is_ascii_graphic)
}
