//! `GET /health`: whether the servers behind this one answer, and what the relay does.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use pg_workflow_client::tokio_postgres::Client;
use pg_workflow_client::tokio_postgres::error::SqlState;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::Problem;
use super::parameters::Query;
use super::rows::NoParameters;
use super::{Relayed, Server};
use pg_workflow_client::Error;
use pg_workflow_client::relay::Role;

/// Whoever asks has a time limit too: a server that hangs is away.
const LIMIT: Duration = Duration::from_millis(1500);

/// Whether the servers behind this one answer.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `healthy` or `unhealthy`.
    status: &'static str,
    version: &'static str,
    service: &'static str,
    database: bool,
    /// None where no Redis is configured.
    redis: Option<bool>,
    /// None where this process does not relay.
    relay: Option<RelayHealth>,
    /// None where this process does not read from a standby, or the database does not answer.
    standby: Option<Standby>,
    #[serde(skip_serializing_if = "Errors::is_empty")]
    errors: Errors,
}

/// What the relay of this process does.
#[derive(Serialize, ToSchema)]
struct RelayHealth {
    #[schema(value_type = String)]
    role: Role,
    published: u64,
    last_publish: Option<DateTime<Utc>>,
    /// None where the database does not say.
    lag_events: Option<i64>,
    lag_seconds: Option<f64>,
}

/// How far the standby is.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub struct Standby {
    /// False once it has been promoted.
    pub in_recovery: bool,
    /// When the last commit that it has replayed was made, by the primary's clock. Old also where the primary has nothing
    /// to commit. None where it has replayed none since it started.
    pub last_commit: Option<DateTime<Utc>>,
}

/// What is wrong.
#[derive(Default, Serialize, ToSchema)]
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

/// What was found out about the servers behind this one.
pub struct Findings {
    pub database: Result<Answered, String>,
    pub redis: Result<(), String>,
}

/// What the database tells.
#[derive(Clone, Copy, Default)]
pub struct Answered {
    /// Of the relay in this process.
    pub lag: Option<Lag>,
    pub standby: Option<Standby>,
}

/// How far the relay's consumer is behind.
#[derive(Clone, Copy)]
pub struct Lag {
    pub events: i64,
    pub seconds: f64,
}

/// Whether PostgreSQL and Redis answer, and what the relay does.
#[utoipa::path(get, path = "/health", tag = "server",
    responses((status = 200, body = Health), (status = 503, body = Health), (status = 400, body = Problem)))]
pub async fn health(State(server): State<Arc<Server>>, _: Query<NoParameters>) -> Response {
    let Findings { database, redis } = ask(&server).await;
    let (Answered { lag, standby }, database) = (database.clone().unwrap_or_default(), database.err());
    let errors = Errors { database, redis: redis.err() };
    let health = Health {
        status: if errors.is_empty() { "healthy" } else { "unhealthy" },
        version: env!("CARGO_PKG_VERSION"),
        service: "workflow-server",
        database: errors.database.is_none(),
        redis: server.backends.redis.as_ref().map(|_| errors.redis.is_none()),
        relay: server.backends.relay.as_ref().map(|relay| relay_health(relay, lag)),
        standby,
        errors,
    };
    let status = if health.errors.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

fn relay_health(relay: &Relayed, lag: Option<Lag>) -> RelayHealth {
    let state = relay.status.get();
    RelayHealth {
        role: state.role,
        published: state.published,
        last_publish: state.last_publish,
        lag_events: lag.map(|lag| lag.events),
        lag_seconds: lag.map(|lag| lag.seconds),
    }
}

/// Asks both servers, at the same time.
pub async fn ask(server: &Server) -> Findings {
    let (database, mut redis) = tokio::join!(limited(ask_database(server)), limited(ask_redis(server)));
    // It may answer, and still take no events: out of memory, or read-only.
    if let Some(relay) = server.backends.relay.as_ref().filter(|_| redis.is_ok()) {
        redis = relay.status.get().publisher_error.map_or(Ok(()), Err);
    }
    Findings { database, redis }
}

/// With a connection of its own: it need not wait behind slow lists, and it learns why there is none.
async fn ask_database(server: &Server) -> Result<Answered, Error> {
    let client = server.backends.database.connect().await?;
    // Not "SELECT 1": without the extension nothing here works.
    client.batch_execute("SELECT workflow.version()").await?;
    let standby = if server.backends.is_standby { Some(ask_standby(&client).await?) } else { None };
    let lag = match &server.backends.relay {
        Some(relay) => ask_lag(&client, relay).await?,
        None => None,
    };
    Ok(Answered { lag, standby })
}

async fn ask_standby(client: &Client) -> Result<Standby, Error> {
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_xact_replay_timestamp()";
    let row = client.query_one(sql, &[]).await?;
    Ok(Standby { in_recovery: row.try_get(0)?, last_commit: row.try_get(1)? })
}

async fn ask_lag(client: &Client, relay: &Relayed) -> Result<Option<Lag>, Error> {
    let lag = "SELECT pending, coalesce(extract(epoch FROM lag), 0)::double precision \
               FROM workflow.consumer_lag WHERE consumer = $1";
    // A backlog of millions takes longer to count than anybody waits here.
    let counting = async { client.query_opt(lag, &[&relay.consumer]).await };
    match tokio::time::timeout(LIMIT * 2 / 3, counting).await {
        Ok(Ok(row)) => Ok(row.map(|row| Lag { events: row.get(0), seconds: row.get(1) })),
        // Who relays need not be allowed to see the lag.
        Ok(Err(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

async fn ask_redis(server: &Server) -> Result<(), Error> {
    match &server.backends.redis {
        Some(server) => {
            let mut connection = server.connect(LIMIT / 2, LIMIT).await?;
            Ok(pg_workflow_client::redis::cmd("PING").query_async(&mut connection).await?)
        }
        None => Ok(()),
    }
}

async fn limited<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("{error}. {}", error.hint())),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs_f32())),
    }
}
