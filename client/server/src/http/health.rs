//! `GET /health`: the state of PostgreSQL, Redis and the relay. `GET /livez` and `GET /readyz`: the same for supervisors.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Authorized;
use super::error::Problem;
use super::parameters::Query;
use super::probe::{Failure, Lag, Standby};
use super::rows::NoParameters;
use super::{RelayInfo, Server};
use pg_workflow_client::relay::Role;

/// A check that is older than this counts as failed.
const STALE: Duration = Duration::from_secs(15);
const REJECTS: &str = "rejects events, or is unavailable; see the log of workflow-server";
const STUCK: &str = "cannot read events; see the log of workflow-server";

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
    /// Age of the last check of the database and of Redis, which are checked every second. Null without a check.
    age_seconds: Option<f64>,
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
    /// As last counted. Null before that, or if the database does not report the lag.
    lag_events: Option<i64>,
    lag_seconds: Option<f64>,
    /// Time since the lag was counted: counting a long backlog takes a while.
    lag_age_seconds: Option<f64>,
}

/// Errors of the servers that this one needs. Only clients with the token get names of hosts, databases and roles.
#[derive(Default, Serialize, ToSchema)]
struct Errors {
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<String>,
}

impl Errors {
    fn is_empty(&self) -> bool {
        self.database.is_none() && self.redis.is_none() && self.relay.is_none()
    }
}

/// Reports the state of PostgreSQL, Redis and the relay, as they were last checked.
#[utoipa::path(get, path = "/health", tag = "server",
    responses((status = 200, body = Health), (status = 503, body = Health), (status = 400, body = Problem)))]
pub async fn health(
    State(server): State<Arc<Server>>,
    authorized: Option<Extension<Authorized>>,
    _: Query<NoParameters>,
) -> Response {
    let report = Report::of(&server).await;
    let errors = report.errors(authorized.is_some());
    let health = Health {
        status: if errors.is_empty() { "healthy" } else { "unhealthy" },
        version: env!("CARGO_PKG_VERSION"),
        service: "workflow-server",
        database: report.database.is_ok(),
        redis: server.backends.redis.as_ref().map(|_| report.redis.is_ok()),
        relay: server.backends.relay.as_ref().map(|relay| describe_relay(relay, server.probe.lag())),
        standby: report.database.unwrap_or_default(),
        age_seconds: report.age.map(seconds),
        errors,
    };
    let status = if health.errors.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

/// The answer of a process that works.
#[derive(Serialize, ToSchema)]
pub struct Live {
    /// `live`.
    status: &'static str,
}

/// Answers 200 while the process works, whatever its servers do: restart it only if this fails.
#[utoipa::path(get, path = "/livez", tag = "server",
    responses((status = 200, body = Live), (status = 400, body = Problem)))]
pub async fn livez(_: Query<NoParameters>) -> Json<Live> {
    Json(Live { status: "live" })
}

/// Whether the servers are available that this one needs.
#[derive(Serialize, ToSchema)]
struct Ready {
    /// `ready` or `waiting`.
    status: &'static str,
    /// `database`, `redis` and `relay`, if they are unavailable or do not work. `/health` has the reasons.
    waiting_for: Vec<&'static str>,
}

/// Answers 200 if PostgreSQL, Redis and the relay work, as `/health`, but without reasons.
#[utoipa::path(get, path = "/readyz", tag = "server",
    responses((status = 200, body = Ready), (status = 503, body = Ready), (status = 400, body = Problem)))]
pub async fn readyz(State(server): State<Arc<Server>>, _: Query<NoParameters>) -> Response {
    let waiting_for = Report::of(&server).await.waiting_for();
    let (code, status) = match waiting_for.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "waiting"),
    };
    (code, Json(Ready { status, waiting_for })).into_response()
}

/// The last checks, and the errors of the relay.
pub struct Report {
    pub age: Option<Duration>,
    pub database: Result<Option<Standby>, Failure>,
    pub redis: Result<(), Failure>,
    relay: Option<String>,
    /// `None` if this process does not relay.
    role: Option<Role>,
}

impl Report {
    pub async fn of(server: &Server) -> Report {
        server.probe.first_checks().await;
        Report::last(server)
    }

    /// Returns the last checks without waiting for the first ones.
    pub fn last(server: &Server) -> Report {
        let database = server.probe.database().filter(|check| check.at.elapsed() < STALE);
        let redis = server.probe.redis().filter(|check| check.at.elapsed() < STALE);
        let relay = server.backends.relay.as_ref().map(|relay| relay.status.get());
        let role = relay.as_ref().map(|relay| relay.role);
        let relay = relay.unwrap_or_default();
        let (Some(database), Some(redis)) = (database, redis) else {
            let text = "not checked in time; workflow-server is overloaded".to_owned();
            let failure = Failure { full: text.clone(), anonymous: text };
            return Report { age: None, database: Err(failure), redis: Ok(()), relay: relay.postgres_error, role };
        };
        // Redis can be available and still reject events: out of memory, or read-only.
        let rejects = relay.publisher_error.map_or(Ok(()), |full| Err(Failure { full, anonymous: REJECTS.to_owned() }));
        Report {
            age: Some(database.at.min(redis.at).elapsed()),
            database: database.result.clone(),
            redis: redis.result.clone().and(rejects),
            relay: relay.postgres_error,
            role,
        }
    }

    /// Returns whether the relay of this process works, as leader or standby.
    pub fn relays(&self) -> bool {
        self.redis.is_ok() && self.relay.is_none() && self.role.is_some_and(|role| role != Role::Starting)
    }

    /// Returns the servers that this one waits for.
    fn waiting_for(&self) -> Vec<&'static str> {
        let all =
            [("database", self.database.is_err()), ("redis", self.redis.is_err()), ("relay", self.relay.is_some())];
        all.into_iter().filter(|(_, is_waiting)| *is_waiting).map(|(name, _)| name).collect()
    }

    fn errors(&self, is_authorized: bool) -> Errors {
        let text = |failure: &Failure| if is_authorized { failure.full.clone() } else { failure.anonymous.clone() };
        let relay = self.relay.clone().map(|full| if is_authorized { full } else { STUCK.to_owned() });
        Errors { database: self.database.as_ref().err().map(text), redis: self.redis.as_ref().err().map(text), relay }
    }
}

fn describe_relay(relay: &RelayInfo, lag: Option<Lag>) -> RelayHealth {
    let state = relay.status.get();
    RelayHealth {
        role: state.role,
        published: state.published,
        last_publish: state.last_publish,
        lag_events: lag.map(|lag| lag.events),
        lag_seconds: lag.map(|lag| lag.seconds),
        lag_age_seconds: lag.map(|lag| seconds(lag.at.elapsed())),
    }
}

fn seconds(age: Duration) -> f64 {
    (age.as_secs_f64() * 1e3).round() / 1e3
}
