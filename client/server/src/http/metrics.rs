//! `GET /metrics`: the same as `/health`, in numbers, for Prometheus.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::answer::{ApiError, Problem};
use super::health::{Answered, Findings, Standby, ask};
use super::parameters::Query;
use super::rows::NoParameters;
use super::{Relayed, Server};
use pg_workflow_client::relay::Role;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The same in numbers, for Prometheus (OpenMetrics).
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), (status = 400, body = Problem)))]
pub async fn metrics(State(server): State<Arc<Server>>, _: Query<NoParameters>) -> Response {
    let findings = ask(&server).await;
    let mut text = String::new();
    match encode(&mut text, &registry(&server, &findings)) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => ApiError::internal().into_response(),
    }
}

fn registry(server: &Server, findings: &Findings) -> Registry {
    let mut all = Registry::with_prefix("workflow");
    gauge(
        &mut all,
        "database_up",
        "1 where PostgreSQL answers and has the extension",
        number(findings.database.is_ok()),
    );
    if server.backends.redis.is_some() {
        gauge(&mut all, "redis_up", "1 where Redis answers and takes events", number(findings.redis.is_ok()));
    }
    if let Some(relay) = &server.backends.relay {
        add_relay(&mut all, relay);
        if let Ok(Answered { lag: Some(lag), .. }) = &findings.database {
            gauge(
                &mut all,
                "relay_lag_events",
                "Events committed and not yet acknowledged by the relay",
                lag.events as f64,
            );
            gauge(&mut all, "relay_lag_seconds", "Age of the oldest of them", lag.seconds);
        }
    }
    if let Ok(Answered { standby: Some(standby), .. }) = &findings.database {
        add_standby(&mut all, standby);
    }
    all
}

fn add_standby(all: &mut Registry, standby: &Standby) {
    gauge(all, "standby_in_recovery", "1 where the database follows a primary", number(standby.in_recovery));
    let last = standby.last_commit.map_or(0.0, |moment| moment.timestamp_micros() as f64 / 1e6);
    gauge(
        all,
        "standby_last_commit_timestamp_seconds",
        "When the last commit replayed was made, since 1970; 0: none yet",
        last,
    );
}

fn add_relay(all: &mut Registry, relay: &Relayed) {
    let state = relay.status.get();
    gauge(all, "relay_leader", "1 where this relay is the one that works", number(state.role == Role::Leader));
    gauge(all, "relay_standby", "1 where it would take over", number(state.role == Role::Standby));
    let last = state.last_publish.map_or(0.0, |moment| moment.timestamp_micros() as f64 / 1e6);
    gauge(all, "relay_last_publish_timestamp_seconds", "When it last published, since 1970; 0: not yet", last);
    counter(all, "relay_events_published", "Events that this process has published", state.published);
    let help = "How often it compared the stream with the database: at each start, and when they differed";
    counter(all, "relay_comparisons", help, state.comparisons);
}

fn gauge(all: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    all.register(name, help, gauge);
}

fn counter(all: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    all.register(name, help, counter);
}

fn number(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}
