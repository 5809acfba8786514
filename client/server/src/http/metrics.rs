//! `GET /metrics`: the checks of `/health` as numbers, for Prometheus.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::error::{ApiError, Problem};
use super::health::Report;
use super::parameters::Query;
use super::probe::Standby;
use super::rows::NoParameters;
use super::{RelayInfo, Server};
use pg_workflow_client::Queue;
use pg_workflow_client::relay::Role;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Reports the same as numbers, for Prometheus (OpenMetrics).
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), (status = 400, body = Problem)))]
pub async fn metrics(State(server): State<Arc<Server>>, _: Query<NoParameters>) -> Response {
    let report = Report::of(&server).await;
    let mut text = String::new();
    match encode(&mut text, &build_registry(&server, &report)) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => ApiError::internal().into_response(),
    }
}

fn build_registry(server: &Server, report: &Report) -> Registry {
    let mut all = Registry::with_prefix("workflow");
    add_gauge(
        &mut all,
        "database_up",
        "1 if PostgreSQL is available and has the extension",
        from_bool(report.database.is_ok()),
    );
    if server.backends.redis.is_some() {
        add_gauge(&mut all, "redis_up", "1 if Redis is available and accepts events", from_bool(report.redis.is_ok()));
    }
    if let Some(age) = report.age {
        add_gauge(&mut all, "check_age_seconds", "Age of the check that these values are from", age.as_secs_f64());
    }
    if let Some(relay) = &server.backends.relay {
        add_relay(&mut all, relay, report);
        if let Some(lag) = server.probe.lag() {
            add_gauge(
                &mut all,
                "relay_lag_events",
                "Committed events that the relay has not acknowledged",
                lag.events as f64,
            );
            add_gauge(&mut all, "relay_lag_seconds", "Age of the oldest unacknowledged event", lag.seconds);
        }
        // Also before the first count: an alert on it must not wait for that.
        let age = server.probe.lag_age().as_secs_f64();
        let help = "Time since the backlog of the relay was counted, or since the start";
        add_gauge(&mut all, "relay_lag_age_seconds", help, age);
    }
    if let Some(queues) = server.probe.queues() {
        add_queues(&mut all, &queues);
    }
    if let Ok(Some(standby)) = &report.database {
        add_standby(&mut all, standby);
    }
    all
}

fn add_standby(all: &mut Registry, standby: &Standby) {
    add_gauge(all, "standby_in_recovery", "1 if the database is a standby", from_bool(standby.in_recovery));
    let last = standby.last_commit.map_or(0.0, |time| time.timestamp_micros() as f64 / 1e6);
    add_gauge(
        all,
        "standby_last_commit_timestamp_seconds",
        "Time of the last replayed commit, seconds since 1970; 0 if none",
        last,
    );
}

fn add_relay(all: &mut Registry, relay: &RelayInfo, report: &Report) {
    let state = relay.status.get();
    add_gauge(all, "relay_up", "1 if this relay reads events and Redis accepts them", from_bool(report.relays()));
    add_gauge(all, "relay_leader", "1 if this relay is the leader", from_bool(state.role == Role::Leader));
    add_gauge(all, "relay_standby", "1 if this relay is a standby", from_bool(state.role == Role::Standby));
    let last = state.last_publish.map_or(0.0, |time| time.timestamp_micros() as f64 / 1e6);
    add_gauge(
        all,
        "relay_last_publish_timestamp_seconds",
        "Time of the last publish, seconds since 1970; 0 if none",
        last,
    );
    add_counter(all, "relay_events_published", "Events published by this process", state.published);
    let help = "Comparisons of the stream with the database: at each start, and after a difference";
    add_counter(all, "relay_comparisons", help, state.comparisons);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: String,
    tenant: String,
}

fn add_queues(all: &mut Registry, queues: &[Queue]) {
    let family = || Family::<QueueLabels, Gauge<f64, AtomicU64>>::default();
    let (ready, running, oldest) = (family(), family(), family());
    let refused = Family::<QueueLabels, Counter<u64>>::default();
    for queue in queues {
        let labels = QueueLabels { queue: escape(&queue.name), tenant: escape(&queue.tenant) };
        ready.get_or_create(&labels).set(queue.ready as f64);
        running.get_or_create(&labels).set(queue.running as f64);
        let age = queue.oldest_ready_at.map_or(0.0, |time| (Utc::now() - time).as_seconds_f64().max(0.0));
        oldest.get_or_create(&labels).set(age);
        if let Some(count) = queue.refused {
            refused.get_or_create(&labels).inc_by(u64::try_from(count).unwrap_or(0));
        }
    }
    all.register("queue_ready_tasks", "Tasks of the queue that can be claimed", ready);
    all.register("queue_running_tasks", "Tasks of the queue that workers have claimed", running);
    all.register("queue_oldest_ready_seconds", "Time for which the oldest ready task waits; 0 if none", oldest);
    all.register("queue_refused_claims", "Claims that found no free slot of the queue", refused);
}

/// Escapes a name from a user, as the text format asks for; the crate writes the values of labels as they are.
fn escape(label: &str) -> String {
    label.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

fn add_gauge(all: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    all.register(name, help, gauge);
}

fn add_counter(all: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    all.register(name, help, counter);
}

fn from_bool(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}
