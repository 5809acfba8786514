//! `workflow-server serve`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::builder::FalseyValueParser;
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::publisher::{RedisStream, StreamOptions};
use pg_workflow_client::redis_server::RedisServer;
use pg_workflow_client::relay;
use pg_workflow_server::{http, maintenance};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::database::{Database, ServerParser};
use crate::descriptors;
use crate::exit_with_usage;
use crate::redis::Redis;
use crate::token::Token;

/// Maximum length of a consumer's name in the database.
const LONGEST_CONSUMER: usize = 250;

/// Relay events to Redis and serve HTTP, until SIGTERM, SIGHUP or Ctrl-C
///
/// The relay appends each event as JSON to the stream, exactly once, and publishes it in the channel, at least once, in
/// order for each run and task. If PostgreSQL or Redis is unavailable, it waits and resumes. Processes with the same
/// --consumer elect a leader; if it fails, a standby takes over within 5 s.
///
/// With --read-only it only serves HTTP, and the database can be a hot standby.
///
/// HTTP is read-only: / is the web UI, /openapi.json describes the rest. Without --token, anyone who can reach the port can
/// read.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,

    #[command(flatten)]
    redis: Redis,

    /// HTTP address; port 0 selects a free port, which the log names
    #[arg(long, env = "WORKFLOW_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Name of the relay's consumer in the event feed
    #[arg(long, env = "WORKFLOW_CONSUMER", default_value = "relay", value_name = "NAME", value_parser = parse_consumer)]
    consumer: String,

    /// Redis channel to publish in
    #[arg(long, env = "WORKFLOW_CHANNEL", default_value = "workflow:events", value_name = "NAME", value_parser = parse_name)]
    channel: String,

    /// Redis stream to append to
    #[arg(long, env = "WORKFLOW_STREAM", default_value = "workflow:stream", value_name = "NAME", value_parser = parse_name)]
    stream: String,

    /// Minimum number of entries to keep in the stream; 0 keeps all
    #[arg(long, env = "WORKFLOW_STREAM_MAX_LENGTH", default_value_t = 1_000_000, value_name = "N")]
    stream_max_length: u64,

    /// Minimum age of trimmed entries
    #[arg(long, env = "WORKFLOW_STREAM_MIN_AGE", default_value_t = 600, value_name = "SECONDS")]
    stream_min_age: u64,

    /// Source of another database whose events the stream may hold, as the log names it
    ///
    /// The relay refuses a stream with events of another database. A database that was restored from a dump, or moved to
    /// another cluster, counts as another one: name its old source here. Later it does no harm.
    #[arg(long = "adopt-stream", env = "WORKFLOW_ADOPT_STREAM", value_delimiter = ',', value_name = "SOURCE")]
    adopt_stream: Vec<String>,

    #[command(flatten)]
    token: Token,

    /// Database for HTTP requests, with a role of its own: clients see the rows and events that this role may see
    ///
    /// The relay and the event feed use --database-url. With tenants, its role must see all of them.
    #[arg(long, env = "WORKFLOW_HTTP_DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = ServerParser)]
    http_database_url: Option<PostgresServer>,

    /// Hot standby that serves the lists while its lag is small enough
    #[arg(long, env = "WORKFLOW_REPLICA_URL", hide_env_values = true, value_name = "URL", value_parser = ServerParser)]
    replica_url: Option<PostgresServer>,

    /// Maximum lag of that standby
    #[arg(long, env = "WORKFLOW_REPLICA_MAX_LAG", default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    replica_max_lag: u64,

    /// Host name under which clients reach the server: a page of another name must not read it (DNS rebinding)
    ///
    /// It accepts these, localhost and, unless it listens on a loopback address, every IP address. Others get 421.
    #[arg(long = "allowed-host", env = "WORKFLOW_ALLOWED_HOSTS", value_delimiter = ',', value_name = "NAME")]
    allowed_hosts: Vec<String>,

    /// Maximum number of HTTP connections; others get 503, except for probes (/health, /metrics …)
    #[arg(long, env = "WORKFLOW_CLIENTS", default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,

    /// Maximum number of HTTP connections of one address
    ///
    /// All clients of a reverse proxy have its address: there, set this to --clients, and limit clients in the proxy.
    #[arg(long, env = "WORKFLOW_CLIENTS_PER_ADDRESS", default_value_t = 250, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clients_per_address: u32,

    /// Maximum number of followers of /api/v1/events
    #[arg(long, env = "WORKFLOW_FOLLOWERS", default_value_t = 500, value_name = "N")]
    followers: u32,

    /// Maximum number of followers of one address
    #[arg(long, env = "WORKFLOW_FOLLOWERS_PER_ADDRESS", default_value_t = 100, value_name = "N")]
    followers_per_address: u32,

    /// Maximum number of database connections for lists
    #[arg(long, env = "WORKFLOW_CONNECTIONS", default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    /// Serve HTTP only, from a database that can be a hot standby
    ///
    /// No relay, no maintenance, and /api/v1/events returns 503. With several hosts, reads from the first available one.
    #[arg(long, env = "WORKFLOW_READ_ONLY", value_parser = FalseyValueParser::new(), conflicts_with_all = ["no_http", "replica_url", "http_database_url"])]
    read_only: bool,

    /// Do not relay
    #[arg(long, env = "WORKFLOW_NO_RELAY", value_parser = FalseyValueParser::new(), conflicts_with = "no_http")]
    no_relay: bool,

    /// Do not serve HTTP
    #[arg(long, env = "WORKFLOW_NO_HTTP", value_parser = FalseyValueParser::new())]
    no_http: bool,
}

/// Rejects a name that is blank, as an environment file can leave it: events would go to a key without a name.
fn parse_name(name: &str) -> Result<String, String> {
    if name.trim().is_empty() { Err("the name is blank".to_owned()) } else { Ok(name.to_owned()) }
}

/// Rejects what the database rejects: to wait for it would not help.
fn parse_consumer(name: &str) -> Result<String, String> {
    if name.chars().count() > LONGEST_CONSUMER {
        return Err(format!("the name has more than {LONGEST_CONSUMER} characters"));
    }
    parse_name(name)
}

pub async fn run(arguments: Arguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let redis = arguments.redis.server().unwrap_or_else(|error| exit_with_usage(&format!("{error:#}")));
    let relay_to = arguments.relay_destination(redis.as_ref());
    let listener = arguments.bind().await?;
    let database = match arguments.read_only {
        true => arguments.database.database_url.clone().to_read_from(),
        false => arguments.database.database_url.clone(),
    };
    let (consumer, status) = (&arguments.consumer, Arc::new(relay::Status::default()));
    let relay_info = http::RelayInfo { consumer: consumer.clone(), status: status.clone() };
    let backends = http::Backends {
        database: database.clone(),
        reader: arguments.http_database_url.clone(),
        replica: arguments.replica(),
        connections: arguments.connections,
        relay: relay_to.as_ref().map(|_| relay_info),
        redis,
        is_standby: arguments.read_only,
    };
    let relaying = async {
        if let Some(redis) = relay_to {
            let mut stream = RedisStream::new(redis, arguments.stream_options());
            let relaying = relay::run(&database, consumer, &mut stream, status, shutdown.clone());
            tokio::join!(relaying, maintenance::run(&database, shutdown.clone()));
        }
    };
    let serving = async {
        if let Some(listener) = listener {
            http::serve(listener, backends, arguments.limits(), shutdown.clone()).await;
        }
    };
    tokio::join!(relaying, serving);
    tracing::info!("stopped");
    Ok(())
}

impl Arguments {
    /// Returns the Redis to relay to; `None` without a relay.
    fn relay_destination(&self, redis: Option<&RedisServer>) -> Option<RedisServer> {
        match redis {
            _ if self.no_relay || self.read_only => None,
            Some(redis) => Some(redis.clone()),
            None => exit_with_usage("relay requires --redis-url <URL> or REDIS_URL; disable it with --no-relay"),
        }
    }

    fn stream_options(&self) -> StreamOptions {
        StreamOptions {
            stream: self.stream.clone(),
            channel: Some(self.channel.clone()),
            max_length: self.stream_max_length,
            min_age: Duration::from_secs(self.stream_min_age),
            adopt: self.adopt_stream.clone(),
        }
    }

    fn replica(&self) -> Option<(PostgresServer, Duration)> {
        Some((self.replica_url.clone()?, Duration::from_secs(self.replica_max_lag)))
    }

    fn limits(&self) -> http::Limits {
        let pools = 1 + u64::from(self.replica_url.is_some());
        let pools = pools + u64::from(self.http_database_url.is_some());
        let others = pools * u64::from(self.connections) + http::RESERVE as u64;
        let clients = descriptors::clients(descriptors::raise_limit(), self.clients, others);
        http::Limits {
            token: self.token.get().map(str::to_owned),
            clients: clients as usize,
            clients_per_address: self.clients_per_address as usize,
            followers: self.followers as usize,
            followers_per_address: self.followers_per_address as usize,
            hosts: self.allowed_hosts.clone(),
        }
    }

    /// Binds the HTTP address; `None` with --no-http.
    async fn bind(&self) -> anyhow::Result<Option<TcpListener>> {
        if self.no_http {
            return Ok(None);
        }
        let address = self.listen;
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address}; set another address with --listen or WORKFLOW_LISTEN")
        })?;
        tracing::info!("listening on http://{}", listener.local_addr()?);
        if self.token.get().is_none() && !address.ip().is_loopback() {
            tracing::warn!(
                "no token: anyone who can reach {address} can read everything. Set WORKFLOW_TOKEN or listen on 127.0.0.1."
            );
        }
        Ok(Some(listener))
    }
}
