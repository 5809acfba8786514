//! The HTTP server: health, metrics, lists and live events, read-only; everything as JSON but the metrics and the page.

mod access;
mod answer;
mod caching;
mod connections;
mod events;
mod health;
mod hub;
mod lists;
mod metrics;
mod openapi;
mod page;
mod parameters;
mod rows;
mod schema;

use std::sync::Arc;
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

use answer::ApiError;
use hub::Hub;
use pg_workflow_client::Error;
use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::database::Database;
use pg_workflow_client::pool::{self, Connection, Pool};
use pg_workflow_client::redis_server::RedisServer;
use pg_workflow_client::relay;

/// How long a request waits for a database connection before it is told that there is none.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The database's own limit on a list, so that one that no index serves ends and frees its connection.
const LIST_LIMIT: Duration = Duration::from_secs(5);
/// A little more than the database's own limit: it may hang.
const REQUEST_LIMIT: Duration = Duration::from_secs(8);

/// What the server answers about.
#[derive(Debug)]
pub struct Backends {
    /// The database.
    pub database: PostgresServer,
    /// A replica that takes the lists off it, and how far behind it may be.
    pub replica: Option<(PostgresServer, Duration)>,
    /// How many connections the lists share at most (at least 1), on each of the two.
    pub connections: u32,
    /// Redis; without it `/health` says null for it and does not need it.
    pub redis: Option<RedisServer>,
    /// The relay that runs in this process, if any.
    pub relay: Option<Relayed>,
    /// The database is a hot standby, or may become one: events are not followed there, and `/health` tells how far it is.
    pub is_standby: bool,
}

/// What is said of a relay.
#[derive(Debug)]
pub struct Relayed {
    /// Its name in the event feed.
    pub consumer: String,
    /// What it shares of its state.
    pub status: Arc<relay::Status>,
}

/// Whom it serves, and how many.
#[derive(Clone)]
pub struct Limits {
    /// What clients must know to be told more than whether the server is healthy: `Authorization: Bearer …`.
    pub token: Option<String>,
    /// How many clients may be connected at once (at least 1); others wait until one leaves.
    pub clients: usize,
    /// How many of them may follow events; others are told to come later.
    pub followers: usize,
}

impl Default for Limits {
    /// No token, 1,000 clients, half of which follow events.
    fn default() -> Limits {
        Limits { token: None, clients: 1000, followers: 500 }
    }
}

/// What the handlers need.
struct Server {
    database: Database,
    /// `/health` and `/metrics` ask with connections of their own.
    backends: Backends,
    hub: Hub,
    openapi: String,
}

impl Server {
    fn new(backends: Backends, limits: &Limits, openapi: String, shutdown: &CancellationToken) -> Server {
        let options = pool::Options {
            max_connections: backends.connections,
            acquire_timeout: PATIENCE,
            statement_timeout: LIST_LIMIT,
            is_read_only: true,
            ..pool::Options::default()
        };
        let mut database = Database::new(Pool::new(backends.database.clone(), options.clone()));
        if let Some((replica, max_staleness)) = &backends.replica {
            database = database.with_replica(Pool::new(replica.clone(), options), *max_staleness);
        }
        let hub = Hub::new(backends.database.clone(), limits.followers, shutdown.clone());
        Server { database, backends, hub, openapi }
    }

    /// A connection for lists.
    async fn read(&self) -> Result<Connection, Error> {
        self.database.read().await
    }
}

/// Serves `listener` until `shutdown`, then lets open requests finish.
///
/// ```no_run
/// use pg_workflow_client::connect::PostgresServer;
/// use pg_workflow_server::http;
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// let database = PostgresServer::parse("postgres://postgres@127.0.0.1/workflow")?;
/// let backends = http::Backends { database, replica: None, connections: 10, redis: None, relay: None, is_standby: false };
/// http::serve(listener, backends, http::Limits::default(), CancellationToken::new()).await;
/// # Ok(())
/// # }
/// ```
pub async fn serve(listener: TcpListener, backends: Backends, limits: Limits, shutdown: CancellationToken) {
    let (paths, description) = paths().split_for_parts();
    let openapi = openapi::describe(description, limits.token.is_some());
    let server = Arc::new(Server::new(backends, &limits, openapi, &shutdown));
    let app = app(paths, server, limits.token.as_deref());
    connections::serve(listener, app, limits.clients, shutdown).await;
}

fn paths() -> OpenApiRouter<Arc<Server>> {
    OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(metrics::metrics))
        .routes(routes!(lists::dags))
        .routes(routes!(rows::dag))
        .routes(routes!(lists::dag_runs))
        .routes(routes!(rows::dag_run_counts))
        .routes(routes!(rows::dag_run))
        .routes(routes!(lists::task_instances))
        .routes(routes!(rows::task_instance_counts))
        .routes(routes!(rows::task_instance))
        .routes(routes!(lists::task_logs))
        .routes(routes!(lists::history))
}

fn app(paths: Router<Arc<Server>>, server: Arc<Server>, token: Option<&str>) -> Router {
    paths
        .route("/openapi.json", get(openapi::openapi))
        .layer(middleware::from_fn(caching::tag))
        .layer(middleware::from_fn(limit))
        // Without the limit on time: its answer does not end.
        .route("/api/v1/events", get(events::events))
        .route("/", get(page::page))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::wrong_method)
        .layer(middleware::from_fn_with_state(access::Token::new(token), access::check_token))
        .layer(middleware::from_fn(access::name_and_log))
        .with_state(server)
}

async fn limit(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await;
    answer.unwrap_or_else(|_| ApiError::no_database().into_response())
}
