//! `GET /health`: the state of PostgreSQL, Redis and the relay.

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

use super::error::Problem;
use super::parameters::Query;
use super::rows::NoParameters;
use super::{Relayed, Server};
use pg_workflow_client::Error;
use pg_workflow_client::relay::Role;

/// Clients have a time limit too: a server that hangs counts as unavailable.
const LIMIT: Duration = Duration::from_millis(1500);

/// The state of the server and of the servers that it needs.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `healthy` or `unhealthy`.
    status: &'static str,
    version: &'static str,
    service: &'static str,
    database: bool,
    /// Null without Redis.
    redis: Option<bool>,
    /// Null if this process does not relay.
    relay: Option<RelayHealth>,
    /// Null if this process does not read from a standby, or the database is unavailable.
    standby: Option<Standby>,
    #[serde(skip_serializing_if = "Errors::is_empty")]
    errors: Errors,
}

/// The relay of this process.
#[derive(Serialize, ToSchema)]
struct RelayHealth {
    #[schema(value_type = String)]
    role: Role,
    published: u64,
    last_publish: Option<DateTime<Utc>>,
    /// Null if the database does not report the lag.
    lag_events: Option<i64>,
    lag_seconds: Option<f64>,
}

/// The replay of a standby.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub struct Standby {
    /// False after it was promoted.
    pub in_recovery: bool,
    /// Time of the last replayed commit, by the clock of the primary. It is old, too, if the primary is idle. Null if the
    /// standby has replayed none since it started.
    pub last_commit: Option<DateTime<Utc>>,
}

/// Errors of the servers that this one needs.
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

/// The results of checking PostgreSQL and Redis.
pub struct Checks {
    pub database: Result<DatabaseReport, String>,
    pub redis: Result<(), String>,
}

/// The report of an available database.
#[derive(Clone, Copy, Default)]
pub struct DatabaseReport {
    /// The lag of the relay in this process.
    pub lag: Option<Lag>,
    pub standby: Option<Standby>,
}

/// The backlog and the lag of the relay's consumer.
#[derive(Clone, Copy)]
pub struct Lag {
    pub events: i64,
    pub seconds: f64,
}

/// Reports the state of PostgreSQL, Redis and the relay.
#[utoipa::path(get, path = "/health", tag = "server",
    responses((status = 200, body = Health), (status = 503, body = Health), (status = 400, body = Problem)))]
pub async fn health(State(server): State<Arc<Server>>, _: Query<NoParameters>) -> Response {
    let Checks { database, redis } = check(&server).await;
    let (DatabaseReport { lag, standby }, database) = (database.clone().unwrap_or_default(), database.err());
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

/// Checks both servers concurrently.
pub async fn check(server: &Server) -> Checks {
    let (database, mut redis) = tokio::join!(limited(check_database(server)), limited(check_redis(server)));
    // Redis can be available and still reject events: out of memory, or read-only.
    if let Some(relay) = server.backends.relay.as_ref().filter(|_| redis.is_ok()) {
        redis = relay.status.get().publisher_error.map_or(Ok(()), Err);
    }
    Checks { database, redis }
}

/// Uses its own connection, which does not wait for slow lists and has the reason if it fails.
async fn check_database(server: &Server) -> Result<DatabaseReport, Error> {
    let client = server.backends.database.connect().await?;
    // Not "SELECT 1": the server needs the extension.
    client.batch_execute("SELECT workflow.version()").await?;
    let standby = if server.backends.is_standby { Some(read_standby(&client).await?) } else { None };
    let lag = match &server.backends.relay {
        Some(relay) => read_lag(&client, relay).await?,
        None => None,
    };
    Ok(DatabaseReport { lag, standby })
}

async fn read_standby(client: &Client) -> Result<Standby, Error> {
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_xact_replay_timestamp()";
    let row = client.query_one(sql, &[]).await?;
    Ok(Standby { in_recovery: row.try_get(0)?, last_commit: row.try_get(1)? })
}

async fn read_lag(client: &Client, relay: &Relayed) -> Result<Option<Lag>, Error> {
    let lag = "SELECT pending, coalesce(extract(epoch FROM lag), 0)::double precision \
               FROM workflow.consumer_lag WHERE consumer = $1";
    // Counting a backlog of millions takes longer than the limit of this endpoint.
    let counting = async { client.query_opt(lag, &[&relay.consumer]).await };
    match tokio::time::timeout(LIMIT * 2 / 3, counting).await {
        Ok(Ok(row)) => Ok(row.map(|row| Lag { events: row.get(0), seconds: row.get(1) })),
        // The role of the relay might lack the right to see the lag.
        Ok(Err(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

async fn check_redis(server: &Server) -> Result<(), Error> {
    match &server.backends.redis {
        Some(server) => {
            let mut connection = server.connect(LIMIT / 2, LIMIT).await?;
            Ok(pg_workflow_client::redis::cmd("PING").query_async(&mut connection).await?)
        }
        None => Ok(()),
    }
}

async fn limited<T>(check: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(LIMIT, check).await {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(error)) => Err(format!("{error}. {}", error.hint())),
        Err(_) => Err(format!("no response within {} s", LIMIT.as_secs_f32())),
    }
}
