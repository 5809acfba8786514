//! A limit of the responses in memory: a large one counts until its client has read it.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::PROBES;
use super::addresses::{Permits, Shares};
use super::connections::Connection;
use super::error::ApiError;

/// Maximum size of the rows of a page. A larger row is a page of its own.
pub const PAGE_BYTES: usize = 4 << 20;
/// Maximum number of responses that are made, or are large and not read yet.
pub const ANSWERS: usize = 32;
/// Responses up to this size fit into the buffers of a connection.
const SMALL: usize = 64 << 10;
/// Time that a request waits for others.
const WAIT_LIMIT: Duration = Duration::from_millis(1500);

/// The body of a response.
struct Held {
    body: Bytes,
    _permits: Permits,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// Lets a request wait if there are too many responses, and rejects it if they stay. Probes need not wait.
pub async fn limit_answers(
    State(answers): State<Shares>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
    next: Next,
) -> Response {
    if PROBES.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let Some(permits) = answers.acquire(connection.address, WAIT_LIMIT).await else {
        return ApiError::unavailable("too many responses in progress, in total or for this address").into_response();
    };
    let (parts, body) = next.run(request).await.into_parts();
    // No limit: the body is in memory already.
    let Ok(body) = to_bytes(body, usize::MAX).await else { return ApiError::internal().into_response() };
    if body.len() <= SMALL {
        return Response::from_parts(parts, Body::from(body));
    }
    Response::from_parts(parts, Body::from(Bytes::from_owner(Held { body, _permits: permits })))
}
