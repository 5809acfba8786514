//! `GET /metrics`: the checks of `/health` as numbers, and counts, for Prometheus.
//!
//! One registry is kept. It counts requests itself; what others keep is read at a scrape, and never asked of a server.

mod requests;
mod values;

use std::fmt;
use std::sync::{Arc, Weak};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::error::{ApiError, Problem};
use super::health::Report;
use super::parameters::Query;
use super::probe::{FeedCounts, Standby, States};
use super::rows::NoParameters;
use super::{RelayInfo, Server};
use pg_workflow_client::Queue;
use pg_workflow_client::pool::Pool;
use pg_workflow_client::relay::Role;
pub use requests::{Requests, measure};
use values::Values;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Reports the same as numbers, for Prometheus (OpenMetrics).
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), (status = 400, body = Problem)))]
pub async fn metrics(State(server): State<Arc<Server>>, _: Query<NoParameters>) -> Response {
    server.probe.first_checks().await;
    let mut text = String::new();
    match encode(&mut text, &server.metrics) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => ApiError::internal().into_response(),
    }
}

/// Creates the registry of a server, which has it.
pub fn registry(server: Weak<Server>, requests: &Requests) -> Registry {
    let mut all = Registry::with_prefix("workflow");
    requests.register(&mut all);
    all.register_collector(Box::new(Current(server)));
    all
}

/// The current values of a server.
struct Current(Weak<Server>);

impl fmt::Debug for Current {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Current")
    }
}

impl Collector for Current {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(server) = self.0.upgrade() else { return Ok(()) };
        let (report, mut all) = (Report::last(&server), Values(encoder));
        add_checks(&mut all, &server, &report)?;
        add_load(&mut all, &server)?;
        if let Some(relay) = &server.backends.relay {
            add_relay(&mut all, relay, &report)?;
            add_lag(&mut all, &server)?;
        }
        if let Some(queues) = server.probe.queues() {
            add_queues(&mut all, &queues)?;
        }
        if let Some(states) = server.probe.states() {
            add_states(&mut all, &states)?;
        }
        if let Some(feed) = server.probe.feed() {
            add_feed(&mut all, &feed)?;
        }
        match &report.database {
            Ok(Some(standby)) => add_standby(&mut all, standby),
            _ => Ok(()),
        }
    }
}

fn add_checks(all: &mut Values<'_>, server: &Server, report: &Report) -> fmt::Result {
    let help = "1 if PostgreSQL is available and has the extension";
    all.gauge("database_up", help, from_bool(report.database.is_ok()))?;
    if server.backends.redis.is_some() {
        all.gauge("redis_up", "1 if Redis is available and accepts events", from_bool(report.redis.is_ok()))?;
    }
    match report.age {
        Some(age) => all.gauge("check_age_seconds", "Age of the check that these values are from", age.as_secs_f64()),
        None => Ok(()),
    }
}

/// The connections of requests to the database, and the followers of events.
fn add_load(all: &mut Values<'_>, server: &Server) -> fmt::Result {
    let (primary, replica) = server.database.pools();
    let pools = [("primary", Some(primary)), ("replica", replica), ("feed", server.feed.as_ref())];
    let pools: Vec<(&str, &Pool)> = pools.into_iter().filter_map(|(name, pool)| Some((name, pool?))).collect();
    let each =
        |value: fn(&Pool) -> u32| pools.iter().map(|(name, pool)| ([("pool", *name)], value(pool).into())).collect();
    let in_use = each(|pool| {
        let (open, idle) = pool.size();
        open.saturating_sub(idle)
    });
    all.gauges("pool_in_use_connections", "Connections that are opened or used", in_use)?;
    all.gauges("pool_idle_connections", "Open connections that are free", each(|pool| pool.size().1))?;
    all.gauges("pool_waiting_requests", "Requests that wait for a connection", each(Pool::waiting))?;
    all.gauge("followers", "Clients that follow /api/v1/events", server.hub.followers() as f64)
}

fn add_standby(all: &mut Values<'_>, standby: &Standby) -> fmt::Result {
    all.gauge("standby_in_recovery", "1 if the database is a standby", from_bool(standby.in_recovery))?;
    let last = standby.last_commit.map_or(0.0, |time| time.timestamp_micros() as f64 / 1e6);
    let help = "Time of the last replayed commit, seconds since 1970; 0 if none";
    all.gauge("standby_last_commit_timestamp_seconds", help, last)
}

fn add_relay(all: &mut Values<'_>, relay: &RelayInfo, report: &Report) -> fmt::Result {
    let state = relay.status.get();
    all.gauge("relay_up", "1 if this relay reads events and Redis accepts them", from_bool(report.relays()))?;
    all.gauge("relay_leader", "1 if this relay is the leader", from_bool(state.role == Role::Leader))?;
    all.gauge("relay_standby", "1 if this relay is a standby", from_bool(state.role == Role::Standby))?;
    let last = state.last_publish.map_or(0.0, |time| time.timestamp_micros() as f64 / 1e6);
    let help = "Time of the last publish, seconds since 1970; 0 if none";
    all.gauge("relay_last_publish_timestamp_seconds", help, last)?;
    all.counter("relay_events_published", "Events published by this process", state.published)?;
    let buckets = state.batch_sizes.counts().map(|(limit, count)| (limit as f64, count));
    let buckets: Vec<(f64, u64)> = buckets.chain([(f64::MAX, 0)]).collect();
    let help = "Events that this process published at once";
    all.histogram("relay_batch_events", help, state.published as f64, &buckets)?;
    let help = "Comparisons of the stream with the database: at each start, and after a difference";
    all.counter("relay_comparisons", help, state.comparisons)
}

fn add_lag(all: &mut Values<'_>, server: &Server) -> fmt::Result {
    if let Some(lag) = server.probe.lag() {
        let help = "Committed events that the relay has not acknowledged";
        all.gauge("relay_lag_events", help, lag.events as f64)?;
        all.gauge("relay_lag_seconds", "Age of the oldest unacknowledged event", lag.seconds)?;
    }
    // Also before the first count: an alert on it must not wait for that.
    let age = server.probe.lag_age().as_secs_f64();
    all.gauge("relay_lag_age_seconds", "Time since the backlog of the relay was counted, or since the start", age)
}

fn add_queues(all: &mut Values<'_>, queues: &[Queue]) -> fmt::Result {
    let labels = |queue: &Queue| [("queue", escape(&queue.name)), ("tenant", escape(&queue.tenant))];
    let each = |value: fn(&Queue) -> f64| queues.iter().map(|queue| (labels(queue), value(queue))).collect();
    let ready = each(|queue| queue.ready as f64);
    all.gauges("queue_ready_tasks", "Tasks of the queue that can be claimed", ready)?;
    let running = each(|queue| queue.running as f64);
    all.gauges("queue_running_tasks", "Tasks of the queue that workers have claimed", running)?;
    let oldest = each(|queue| queue.oldest_ready_at.map_or(0.0, |time| (Utc::now() - time).as_seconds_f64().max(0.0)));
    all.gauges("queue_oldest_ready_seconds", "Time for which the oldest ready task waits; 0 if none", oldest)?;
    let refused = queues.iter().filter_map(|queue| Some((labels(queue), u64::try_from(queue.refused?).unwrap_or(0))));
    all.counters("queue_refused_claims", "Claims that found no free slot of the queue", refused.collect())
}

fn add_states(all: &mut Values<'_>, states: &States) -> fmt::Result {
    let counts = states.counts.iter();
    let counts = counts.map(|(kind, state, count)| ([("entity_type", kind), ("state", state)], *count as f64));
    all.gauges("entities", "Runs and tasks in the state", counts.collect())?;
    let stuck = states.stuck.iter().map(|(kind, count)| ([("entity_type", kind)], *count as f64));
    all.gauges("stuck_entities", "Rows of stuck() with its default limit", stuck.collect())
}

fn add_feed(all: &mut Values<'_>, feed: &FeedCounts) -> fmt::Result {
    let each = |value: fn(&(String, i64, f64)) -> f64| {
        feed.consumers.iter().map(|consumer| ([("consumer", escape(&consumer.0))], value(consumer))).collect()
    };
    let help = "Committed events that the consumer has not acknowledged";
    all.gauges("consumer_lag_events", help, each(|(_, events, _)| *events as f64))?;
    let help = "Age of the oldest unacknowledged event of the consumer; 0 if none";
    all.gauges("consumer_lag_seconds", help, each(|(.., seconds)| *seconds))?;
    let labels = |table, role| [("table", table), ("role", role)];
    let partitions = feed.partitions.iter();
    let counts = partitions.clone().map(|(table, role, count, _)| (labels(table, role), *count as f64));
    all.gauges("partitions", "Partitions of the table: past, current or next", counts.collect())?;
    let bytes = partitions.map(|(table, role, _, bytes)| (labels(table, role), *bytes as f64));
    all.gauges("partition_bytes", "Size of these partitions with their indexes", bytes.collect())
}

/// Escapes a name from a user, as the text format asks for; the crate writes the values of labels as they are.
fn escape(label: &str) -> String {
    label.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

fn from_bool(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}
