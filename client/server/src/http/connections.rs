//! Client connections with limits: slow and idle ones are closed, and those above the maximum wait.
//!
//! hyper-util serves each connection; neither axum::serve nor axum-server limits their number or their writes.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

/// Time to receive the head of a request; also the time between two requests on a connection.
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// Time during which a client can leave a response unread.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Maximum size of the head of a request. The longest useful header is a position of the feed.
const HEAD_BYTES: usize = 32 * 1024;
const HEADERS: usize = 64;
/// Time for open requests to finish after the server is told to stop.
const GRACE: Duration = Duration::from_secs(3);
/// Pause after a connection cannot be accepted, mostly for lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves at most `clients` connections at a time, until `shutdown`.
pub async fn serve(listener: TcpListener, app: Router, clients: usize, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(clients.clamp(1, Semaphore::MAX_PERMITS)));
    let open = GracefulShutdown::new();
    let accepting = async {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let stream = accept(&listener).await;
            let connection = open.watch(serve_connection(stream, app.clone()));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!("client connection ended: {error}");
                }
                drop(slot);
            });
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    if tokio::time::timeout(GRACE, open.shutdown()).await.is_err() {
        tracing::warn!("stopped serving HTTP: requests still open after {} s; closing them", GRACE.as_secs());
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(
                    "cannot accept a client connection: {error}; retrying. If too many files are open, raise ulimit -n."
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

type Client = http1::Connection<TokioIo<std::pin::Pin<Box<TimeoutStream<TcpStream>>>>, TowerToHyperService<Router>>;

fn serve_connection(stream: TcpStream, app: Router) -> Client {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("cannot set TCP_NODELAY: {error}");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_LIMIT));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app))
}
