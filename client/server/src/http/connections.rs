//! Connections of clients, with limits: slow and idle ones are ended, and many wait.

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

/// How long a client may take to send the head of a request, also the next one on its connection.
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// How long a client may read nothing of an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How large the head of a request may be: a position of the feed is the longest that is of use.
const HEAD_BYTES: usize = 32 * 1024;
const HEADERS: usize = 64;
/// How long open requests may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(3);
/// How long to wait when no connection can be taken, mostly for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, at most so many clients at once.
pub async fn serve(listener: TcpListener, app: Router, clients: usize, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(clients.clamp(1, Semaphore::MAX_PERMITS)));
    let open = GracefulShutdown::new();
    let accepting = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let stream = accept(&listener).await;
            let connection = open.watch(connection(stream, app.clone()));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!("a client's connection ended: {error}");
                }
                drop(place);
            });
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    if tokio::time::timeout(GRACE, open.shutdown()).await.is_err() {
        tracing::warn!("HTTP stopped with requests still open");
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(
                    "cannot take a client's connection: {error}. If too many files are open, raise ulimit -n"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

type Client = http1::Connection<TokioIo<std::pin::Pin<Box<TimeoutStream<TcpStream>>>>, TowerToHyperService<Router>>;

fn connection(stream: TcpStream, app: Router) -> Client {
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
