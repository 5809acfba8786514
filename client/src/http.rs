//! The HTTP server: health, metrics and lists, read-only; everything as JSON but the metrics.

mod answer;
mod health;
mod lists;
mod metrics;
mod parameters;

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connect::PostgresServer;
use crate::pool::{self, Pool};
use crate::redis_server::RedisServer;
use crate::relay;

/// How long a request waits for a database connection before it is told that there is none.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The database's own limit on a list, so that one that no index serves ends and frees its connection.
const LIST_LIMIT: Duration = Duration::from_secs(5);
/// A little more than the server's own limit: it may hang.
const REQUEST_LIMIT: Duration = Duration::from_secs(7);
/// How long open requests may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(3);

/// What the server answers about.
pub struct Backends {
    /// The database.
    pub database: PostgresServer,
    /// How many connections the lists share at most (at least 1).
    pub connections: u32,
    /// Redis; without it `/health` says null for it and does not need it.
    pub redis: Option<RedisServer>,
    /// The relay that runs in this process, if any.
    pub relay: Option<Relayed>,
}

/// What is said of a relay.
pub struct Relayed {
    /// Its name in the event feed.
    pub consumer: String,
    /// What it shares of its state.
    pub status: Arc<relay::Status>,
}

/// What the handlers need.
struct Server {
    pool: Pool,
    /// `/health` and `/metrics` ask with connections of their own.
    backends: Backends,
}

/// Serves `listener` until `shutdown`, then lets open requests finish.
///
/// ```no_run
/// use pg_workflow_client::{connect::PostgresServer, http};
/// use tokio_util::sync::CancellationToken;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// let database = PostgresServer::parse("postgres://postgres@127.0.0.1/workflow")?;
/// let backends = http::Backends { database, connections: 10, redis: None, relay: None };
/// http::serve(listener, backends, CancellationToken::new()).await;
/// # Ok(())
/// # }
/// ```
pub async fn serve(listener: TcpListener, backends: Backends, shutdown: CancellationToken) {
    let options = pool::Options {
        max_connections: backends.connections,
        acquire_timeout: PATIENCE,
        statement_timeout: LIST_LIMIT,
        is_read_only: true,
        ..pool::Options::default()
    };
    let pool = Pool::new(backends.database.clone(), options);
    let app = router(Server { pool, backends });
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("cannot set TCP_NODELAY: {error}");
        }
    });
    let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        _ = serving.into_future() => (),
        () = too_late => tracing::warn!("HTTP stopped with requests still open"),
    }
}

fn router(server: Server) -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/api/v1/dags", get(lists::dags))
        .route("/api/v1/dags/{id}", get(lists::dag))
        .route("/api/v1/dag-runs", get(lists::dag_runs))
        .route("/api/v1/dag-runs/{id}", get(lists::dag_run))
        .route("/api/v1/task-instances", get(lists::task_instances))
        .route("/api/v1/task-instances/{id}", get(lists::task_instance))
        .route("/api/v1/history", get(lists::history))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::wrong_method)
        .layer(middleware::from_fn(limit))
        .with_state(Arc::new(server))
}

async fn limit(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await;
    answer.unwrap_or_else(|_| answer::no_database().into_response())
}
