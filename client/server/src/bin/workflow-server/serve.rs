//! `workflow-server serve`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::builder::{FalseyValueParser, NonEmptyStringValueParser};
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::publisher::{RedisStream, StreamOptions};
use pg_workflow_client::relay;
use pg_workflow_server::{http, maintenance};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::redis::Redis;
use crate::{Database, server, usage};

/// Relay events to Redis and answer over HTTP, until SIGTERM or Ctrl-C.
///
/// The relay brings each event as JSON into the stream, once, and publishes it in the channel, at least once, in order
/// for each run and task. It waits for PostgreSQL and Redis when they are away and goes on where it was. Of several
/// with the same --consumer one works, and the others take over within 5 s when it does not.
///
/// With --read-only it only answers, and the database may be a hot standby.
///
/// HTTP is read-only: / is a page that shows the runs moving, /openapi.json describes the rest. Without --token whoever
/// reaches the address may read.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    redis: Redis,

    /// Where to answer HTTP. Port 0 takes a free one; the log says which.
    #[arg(long, env = "WORKFLOW_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// The relay's name in the event feed, under which the database keeps its place. Relays of one name take turns.
    #[arg(long, env = "WORKFLOW_CONSUMER", default_value = "relay", value_name = "NAME")]
    consumer: String,

    /// The Redis channel to publish in.
    #[arg(long, env = "WORKFLOW_CHANNEL", default_value = "workflow:events", value_name = "NAME")]
    channel: String,

    /// The Redis stream to append to.
    #[arg(long, env = "WORKFLOW_STREAM", default_value = "workflow:stream", value_name = "NAME")]
    stream: String,

    /// How many entries the stream keeps, at least; 0 keeps all.
    #[arg(long, env = "WORKFLOW_STREAM_MAX_LENGTH", default_value_t = 1_000_000, value_name = "N")]
    stream_max_length: u64,

    /// How long an entry stays at least, however many there are.
    #[arg(long, env = "WORKFLOW_STREAM_MIN_AGE", default_value_t = 600, value_name = "SECONDS")]
    stream_min_age: u64,

    /// What clients must send as "Authorization: Bearer TOKEN" to be told more than /health. Better given by the
    /// environment, where other users of the machine cannot see it.
    #[arg(long, env = "WORKFLOW_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = NonEmptyStringValueParser::new())]
    token: Option<String>,

    /// A hot standby that takes the lists off the database, as long as it is not too far behind.
    #[arg(long, env = "WORKFLOW_REPLICA_URL", hide_env_values = true, value_name = "URL", value_parser = server)]
    replica_url: Option<PostgresServer>,

    /// How far behind the standby may be.
    #[arg(long, env = "WORKFLOW_REPLICA_MAX_LAG", default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    replica_max_lag: u64,

    /// How many HTTP clients may be connected at once. Others wait until one leaves.
    #[arg(long, env = "WORKFLOW_CLIENTS", default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,

    /// How many of them may follow /api/v1/events.
    #[arg(long, env = "WORKFLOW_FOLLOWERS", default_value_t = 500, value_name = "N")]
    followers: u32,

    /// How many database connections the lists share at most. The relay and /health have their own.
    #[arg(long, env = "WORKFLOW_CONNECTIONS", default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    /// Only answer over HTTP, from a database that may be a hot standby: do not relay, do not keep the counts per state.
    /// /api/v1/events answers 503. Of several hosts in the URL the first that answers is read from.
    #[arg(long, env = "WORKFLOW_READ_ONLY", value_parser = FalseyValueParser::new(), conflicts_with_all = ["no_http", "replica_url"])]
    read_only: bool,

    /// Do not relay.
    #[arg(long, env = "WORKFLOW_NO_RELAY", value_parser = FalseyValueParser::new(), conflicts_with = "no_http")]
    no_relay: bool,

    /// Do not answer HTTP.
    #[arg(long, env = "WORKFLOW_NO_HTTP", value_parser = FalseyValueParser::new())]
    no_http: bool,
}

pub async fn run(arguments: Arguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let redis = arguments.redis.server().unwrap_or_else(|error| usage(&format!("{error:#}")));
    let database = match arguments.read_only {
        true => arguments.database.database_url.to_read_from(),
        false => arguments.database.database_url,
    };
    let relay_to = match (&redis, arguments.no_relay || arguments.read_only) {
        (_, true) => None,
        (Some(redis), false) => Some(redis.clone()),
        (None, false) => usage("the relay needs --redis-url <URL> (or REDIS_URL); --no-relay turns it off"),
    };
    let status = Arc::new(relay::Status::default());
    let options = StreamOptions {
        stream: arguments.stream,
        channel: Some(arguments.channel),
        max_length: arguments.stream_max_length,
        min_age: Duration::from_secs(arguments.stream_min_age),
    };
    let consumer = arguments.consumer;
    let relayed = relay_to.is_some().then(|| http::Relayed { consumer: consumer.clone(), status: status.clone() });
    let relaying = async {
        if let Some(redis) = relay_to {
            let mut stream = RedisStream::new(redis, options);
            let relaying = relay::run(&database, &consumer, &mut stream, status, shutdown.clone());
            tokio::join!(relaying, maintenance::run(&database, shutdown.clone()));
        }
    };
    let listener = if arguments.no_http { None } else { Some(bind(arguments.listen).await?) };
    if listener.is_some() && arguments.token.is_none() && !arguments.listen.ip().is_loopback() {
        tracing::warn!(
            "whoever reaches {} may read everything: set WORKFLOW_TOKEN, or listen on 127.0.0.1",
            arguments.listen
        );
    }
    let max_lag = Duration::from_secs(arguments.replica_max_lag);
    let limits = http::Limits {
        token: arguments.token,
        clients: arguments.clients as usize,
        followers: arguments.followers as usize,
    };
    let answering = async {
        if let Some(listener) = listener {
            let backends = http::Backends {
                database: database.clone(),
                replica: arguments.replica_url.map(|replica| (replica, max_lag)),
                connections: arguments.connections,
                redis,
                relay: relayed,
                is_standby: arguments.read_only,
            };
            http::serve(listener, backends, limits, shutdown.clone()).await;
        }
    };
    tokio::join!(relaying, answering);
    tracing::info!("stopped");
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| {
        format!("cannot listen on {address}; choose another address with --listen (or WORKFLOW_LISTEN)")
    })?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    Ok(listener)
}
