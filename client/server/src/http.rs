//! The HTTP server: health, metrics, lists, live events and the web UI. It is read-only and returns JSON.

mod access;
mod addresses;
mod answers;
mod caching;
mod claims;
mod connections;
mod error;
mod events;
mod graph;
mod health;
mod hosts;
mod hub;
mod lists;
mod metrics;
mod openapi;
mod parameters;
mod probe;
mod response;
mod rows;
mod schema;
mod waits;
mod web_ui;

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use addresses::Shares;
pub use connections::RESERVE;
use error::ApiError;
use hosts::Hosts;
use hub::Hub;
use metrics::Requests;
use pg_workflow_client::Error;
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::database::Database;
use pg_workflow_client::pool::{self, Connection, Pool};
use pg_workflow_client::redis_server::RedisServer;
use pg_workflow_client::relay;
use probe::Probe;
use prometheus_client::registry::Registry;

/// Time that a request waits for a database connection.
const ACQUIRE_LIMIT: Duration = Duration::from_millis(1500);
/// Statement timeout of a list, so that a slow one ends and frees its connection.
const LIST_LIMIT: Duration = Duration::from_secs(5);
/// Monitoring: these paths are served also if all else is at its limit.
const PROBES: [&str; 4] = ["/health", "/livez", "/readyz", "/metrics"];
/// Time limit of a request: more than the statement timeout, because the database can hang.
const REQUEST_LIMIT: Duration = Duration::from_secs(8);

/// The servers that the HTTP server reads from.
#[derive(Debug)]
pub struct Backends {
    /// The database. The relay, its checks and the feed use it.
    pub database: PostgresServer,
    /// The same database, as the role whose rows requests may see; `None` for the role of `database`.
    pub reader: Option<PostgresServer>,
    /// A standby that serves the lists, and its maximum lag.
    pub replica: Option<(PostgresServer, Duration)>,
    /// Maximum number of connections for the lists, at least 1, to each of the two.
    pub connections: u32,
    /// Redis; without it, `redis` is null in `/health`.
    pub redis: Option<RedisServer>,
    /// The relay that runs in this process, if any.
    pub relay: Option<RelayInfo>,
    /// Whether the database can be a hot standby: then there are no events, and `/health` has its replay.
    pub is_standby: bool,
}

impl Backends {
    /// Returns the database that requests read from.
    fn reader(&self) -> &PostgresServer {
        self.reader.as_ref().unwrap_or(&self.database)
    }
}

/// The relay in `/health` and `/metrics`.
#[derive(Debug)]
pub struct RelayInfo {
    /// Name of its consumer.
    pub consumer: String,
    /// Current state, shared with the relay.
    pub status: Arc<relay::Status>,
}

/// Access to the server and its capacity.
#[derive(Clone)]
pub struct Limits {
    /// Token for everything except `/`, `/health`, `/livez` and `/readyz`: `Authorization: Bearer …`.
    pub token: Option<String>,
    /// Maximum number of connections, at least 1; others get 503, except for probes (`/health`, `/metrics` …).
    pub clients: usize,
    /// Maximum number of connections of one address, at least 1.
    pub clients_per_address: usize,
    /// Maximum number of followers of events; others get 503.
    pub followers: usize,
    /// Maximum number of followers of one address.
    pub followers_per_address: usize,
    /// Host names under which clients reach the server, beside `localhost` and, unless it listens on a loopback address,
    /// IP addresses. Requests for other names are rejected.
    pub hosts: Vec<String>,
}

impl Default for Limits {
    /// No token, 1,000 connections (250 of one address), 500 followers (100 of one address), no host names.
    fn default() -> Limits {
        let (clients_per_address, followers_per_address) = (250, 100);
        Limits {
            token: None,
            clients: 1000,
            clients_per_address,
            followers: 500,
            followers_per_address,
            hosts: Vec::new(),
        }
    }
}

/// The state that all handlers share.
struct Server {
    database: Database,
    /// Reads the feed, if the role of `database` may not.
    feed: Option<Pool>,
    backends: Arc<Backends>,
    probe: Probe,
    hub: Hub,
    openapi: String,
    metrics: Registry,
}

impl Server {
    fn new(
        backends: Backends,
        limits: &Limits,
        openapi: String,
        shutdown: &CancellationToken,
        metrics: impl FnOnce(Weak<Server>) -> Registry,
    ) -> Arc<Server> {
        let options = pool::Options {
            max_connections: backends.connections,
            acquire_timeout: ACQUIRE_LIMIT,
            statement_timeout: LIST_LIMIT,
            is_read_only: true,
            ..pool::Options::default()
        };
        let pool = |server: &PostgresServer| Pool::new(server.clone().with_fixed_settings(), options.clone());
        let mut database = Database::new(pool(backends.reader()));
        if let Some((replica, max_staleness)) = &backends.replica {
            database = database.with_replica(pool(replica), *max_staleness);
        }
        // Tenants cannot read the feed, which has the events of all.
        let feed = backends.reader.as_ref().map(|_| pool(&backends.database));
        let visible = feed.is_some().then(|| database.clone());
        let hub = Hub::new(backends.database.clone(), visible, limits, shutdown.clone());
        let backends = Arc::new(backends);
        let probe = Probe::start(backends.clone(), shutdown.clone());
        // The registry reads the values of the server that has it.
        Arc::new_cyclic(|server| {
            let metrics = metrics(server.clone());
            Server { database, feed, backends, probe, hub, openapi, metrics }
        })
    }

    /// Acquires a connection for a list.
    async fn read(&self) -> Result<Connection, Error> {
        self.database.read().await
    }

    /// Acquires a connection for the feed.
    async fn read_feed(&self) -> Result<Connection, Error> {
        match &self.feed {
            Some(feed) => feed.get().await,
            None => self.database.write().await,
        }
    }

    /// Acquires a connection to the primary, whose memory has what a standby does not know: renewals of leases.
    async fn read_from_primary(&self) -> Result<Connection, Error> {
        self.database.write().await
    }
}

/// Serves `listener` until `shutdown`, then waits for open requests.
///
/// ```no_run
/// use pg_workflow_client::connect::PostgresServer;
/// use pg_workflow_server::http;
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// let database = PostgresServer::parse("postgres://postgres@127.0.0.1/workflow")?;
/// let backends =
///     http::Backends { database, reader: None, replica: None, connections: 10, redis: None, relay: None, is_standby: false };
/// http::serve(listener, backends, http::Limits::default(), CancellationToken::new()).await;
/// # Ok(())
/// # }
/// ```
pub async fn serve(listener: TcpListener, backends: Backends, limits: Limits, shutdown: CancellationToken) {
    let (paths, description) = paths().split_for_parts();
    let openapi = openapi::describe(description, limits.token.is_some());
    let requests = Requests::new();
    let server = Server::new(backends, &limits, openapi, &shutdown, |server| metrics::registry(server, &requests));
    let app = app(paths, server, &limits);
    // A listener without an address accepts no connections either.
    let app = match listener.local_addr() {
        Ok(address) => app.layer(middleware::from_fn_with_state(Hosts::new(address, &limits.hosts), hosts::check_host)),
        Err(_) => app,
    };
    let app = app.layer(middleware::from_fn(access::identify_and_log));
    let app = app.layer(middleware::from_fn_with_state(requests, metrics::measure));
    connections::serve(listener, app, &limits, shutdown).await;
}

fn paths() -> OpenApiRouter<Arc<Server>> {
    OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(lists::dags))
        .routes(routes!(rows::dag))
        .routes(routes!(lists::dag_runs))
        .routes(routes!(rows::dag_run_counts))
        .routes(routes!(rows::dag_run))
        .routes(routes!(graph::graph))
        .routes(routes!(lists::task_instances))
        .routes(routes!(rows::task_instance_counts))
        .routes(routes!(rows::task_instance))
        .routes(routes!(waits::waits_for))
        .routes(routes!(lists::task_logs))
        .routes(routes!(lists::history))
        .routes(routes!(claims::claims))
        .routes(routes!(claims::queues))
}

fn app(paths: Router<Arc<Server>>, server: Arc<Server>, limits: &Limits) -> Router {
    paths
        .route("/openapi.json", get(openapi::openapi))
        .layer(middleware::from_fn(response::link_next))
        .layer(middleware::from_fn(caching::tag))
        .layer(middleware::from_fn(limit))
        .layer(middleware::from_fn_with_state(Shares::new(answers::ANSWERS, limits), answers::limit_answers))
        // No time limit: the response is an endless stream.
        .route("/api/v1/events", get(events::events))
        .route("/", get(web_ui::web_ui))
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::unsupported_method)
        .layer(middleware::from_fn_with_state(access::Token::new(limits.token.as_deref()), access::check_token))
        .layer(middleware::from_fn(connections::keep_reserve))
        .with_state(server)
}

async fn limit(request: Request, next: Next) -> Response {
    let response = tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await;
    response.unwrap_or_else(|_| ApiError::no_database().into_response())
}
