//! `GET /health`: whether the servers behind this one answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Server;
use crate::relay::{connect_redis, ping};
use crate::{Error, connect};

/// Whoever asks has a time limit too: a server that hangs is away.
const LIMIT: Duration = Duration::from_millis(1500);

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    service: &'static str,
    database: bool,
    /// None where no Redis is configured.
    redis: Option<bool>,
    #[serde(skip_serializing_if = "Errors::is_empty")]
    errors: Errors,
}

#[derive(Serialize)]
struct Errors {
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<String>,
}

impl Errors {
    fn is_empty(&self) -> bool {
        self.database.is_none() && self.redis.is_none()
    }
}

pub async fn health(State(server): State<Arc<Server>>) -> Response {
    let (database, redis) = tokio::join!(limited(ask_database(&server)), limited(ask_redis(&server)));
    let errors = Errors { database: database.err(), redis: redis.err() };
    let health = Health {
        status: if errors.is_empty() { "healthy" } else { "unhealthy" },
        version: env!("CARGO_PKG_VERSION"),
        service: "workflow-server",
        database: errors.database.is_none(),
        redis: server.redis.as_ref().map(|_| errors.redis.is_none()),
        errors,
    };
    let status = if health.errors.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

/// With a connection of its own: it need not wait behind slow lists, and it learns why there is none.
async fn ask_database(server: &Server) -> Result<(), Error> {
    let client = connect::connect(&server.database).await?;
    // Not "SELECT 1": without the extension nothing here works.
    Ok(client.batch_execute("SELECT workflow.version()").await?)
}

async fn ask_redis(server: &Server) -> Result<(), Error> {
    match &server.redis {
        Some(redis) => ping(&mut connect_redis(redis, LIMIT, LIMIT).await?).await,
        None => Ok(()),
    }
}

async fn limited(asking: impl Future<Output = Result<(), Error>>) -> Result<(), String> {
    match tokio::time::timeout(LIMIT, asking).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{error}. {}", error.advice())),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs_f32())),
    }
}
