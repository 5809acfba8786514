//! Client connections with limits: slow and idle ones are closed, and those without a request give way to new ones.
//!
//! hyper-util serves each connection; neither axum::serve nor axum-server limits their number or their writes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::addresses::Address;
use super::error::ApiError;
use super::{Limits, PROBES};

/// Time to receive the head of a request; also the time between two requests on a connection.
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// Time during which a client can leave a response unread.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Maximum size of the head of a request. The longest useful header is a position of the feed.
const HEAD_BYTES: usize = 32 * 1024;
const HEADERS: usize = 64;
/// Connections above the limits, which get probes (`/health`, `/metrics` …) only.
pub const RESERVE: usize = 16;
/// Time for open requests to finish after the server is told to stop.
const GRACE: Duration = Duration::from_secs(3);
/// Pause after a connection cannot be accepted, mostly for lack of file descriptors, and time between two log lines.
const PAUSE: Duration = Duration::from_millis(100);
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// A client connection.
pub struct Connection {
    pub address: Address,
    /// It is above the limits.
    is_reserve: bool,
    /// A complete request has arrived on it.
    has_request: AtomicBool,
    /// Closes it.
    close: CancellationToken,
}

/// The open connections, in the order of their arrival.
struct Connections {
    max: usize,
    max_per_address: usize,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
}

impl Connections {
    /// Admits a connection; `None` if there is no place, nor one for a probe.
    ///
    /// Connections that have not sent a request yet give way, the oldest first: of the same address if it has too many,
    /// otherwise of the address that has most.
    fn admit(&self, number: u64, address: Address) -> Option<Arc<Connection>> {
        let mut open = self.open();
        let count = |open: &BTreeMap<u64, Arc<Connection>>, address: Address| {
            open.values().filter(|other| !other.is_reserve && other.address == address).count()
        };
        let ordinary = open.values().filter(|other| !other.is_reserve).count();
        let mut is_reserve = false;
        if count(&open, address) >= self.max_per_address {
            is_reserve = !close_oldest(&mut open, |other| !other.is_reserve && other.address == address);
        } else if ordinary >= self.max {
            let silent = open.values().filter(|other| !other.is_reserve && other.is_silent());
            let most = silent.map(|other| other.address).max_by_key(|address| count(&open, *address));
            is_reserve = !close_oldest(&mut open, |other| !other.is_reserve && Some(other.address) == most);
        }
        let reserve = open.values().filter(|other| other.is_reserve).count();
        if is_reserve && reserve >= RESERVE && !close_oldest(&mut open, |other| other.is_reserve) {
            return None;
        }
        let (has_request, close) = (AtomicBool::new(false), CancellationToken::new());
        let connection = Arc::new(Connection { address, is_reserve, has_request, close });
        open.insert(number, connection.clone());
        Some(connection)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the oldest of these connections that has not sent a request; returns whether there is one.
fn close_oldest(open: &mut BTreeMap<u64, Arc<Connection>>, among: impl Fn(&Connection) -> bool) -> bool {
    let oldest = open.iter().find(|(_, other)| other.is_silent() && among(other)).map(|(number, _)| *number);
    let closed = oldest.and_then(|number| open.remove(&number));
    closed.inspect(|connection| connection.close.cancel()).is_some()
}

impl Connection {
    fn is_silent(&self) -> bool {
        !self.has_request.load(Ordering::Relaxed)
    }
}

/// Serves connections within the limits, until `shutdown`. Handlers get an `Arc<Connection>` as an extension.
pub async fn serve(listener: TcpListener, app: Router, limits: &Limits, shutdown: CancellationToken) {
    let (max, max_per_address) = (limits.clients.max(1), limits.clients_per_address.max(1));
    let connections = Arc::new(Connections { max, max_per_address, open: Mutex::default() });
    let open = GracefulShutdown::new();
    let accepting = async {
        let mut warned_at = None;
        for number in 0.. {
            let (stream, peer) = accept(&listener, &mut warned_at).await;
            // Without a place even for probes, the connection is dropped.
            let Some(connection) = connections.admit(number, peer.ip().into()) else { continue };
            let served = open.watch(serve_connection(stream, app.clone(), connection.clone()));
            let connections = connections.clone();
            tokio::spawn(async move {
                let served = pin!(served);
                if let Some(Err(error)) = connection.close.run_until_cancelled(served).await {
                    tracing::debug!("client connection ended: {error}");
                }
                connections.open().remove(&number);
            });
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    if tokio::time::timeout(GRACE, open.shutdown()).await.is_err() {
        tracing::warn!("stopped serving HTTP: requests still open after {} s; closing them", GRACE.as_secs());
    }
}

async fn accept(listener: &TcpListener, warned_at: &mut Option<Instant>) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                if warned_at.is_none_or(|at| at.elapsed() > WARNING_INTERVAL) {
                    *warned_at = Some(Instant::now());
                    tracing::warn!(
                        "cannot accept client connections: {error}; retrying. If too many files are open, raise ulimit -n."
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves the requests of a connection.
struct App {
    router: TowerToHyperService<Router>,
    connection: Arc<Connection>,
}

impl Service<hyper::Request<Incoming>> for App {
    type Response = Response;
    type Error = Infallible;
    type Future = <TowerToHyperService<Router> as Service<hyper::Request<Incoming>>>::Future;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        self.connection.has_request.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(self.connection.clone());
        self.router.call(request)
    }
}

type Client = http1::Connection<TokioIo<Pin<Box<TimeoutStream<TcpStream>>>>, App>;

fn serve_connection(stream: TcpStream, app: Router, connection: Arc<Connection>) -> Client {
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
        .serve_connection(TokioIo::new(Box::pin(stream)), App { router: TowerToHyperService::new(app), connection })
}

/// Rejects requests on a connection of the reserve, except those of probes.
pub async fn keep_reserve(request: Request, next: Next) -> Response {
    let is_reserve = request.extensions().get::<Arc<Connection>>().is_some_and(|connection| connection.is_reserve);
    if !is_reserve {
        return next.run(request).await;
    }
    let mut response = match PROBES.contains(&request.uri().path()) {
        true => next.run(request).await,
        false => ApiError::unavailable("too many connections, in total or from this address").into_response(),
    };
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn connections(
        max: usize,
        max_per_address: usize,
    ) -> (Connections, impl FnMut(&Connections, u8) -> Option<Arc<Connection>>) {
        let mut number = 0;
        let admit = move |connections: &Connections, address: u8| {
            number += 1;
            connections.admit(number, IpAddr::from(Ipv4Addr::new(192, 0, 2, address)).into())
        };
        (Connections { max, max_per_address, open: Mutex::default() }, admit)
    }

    fn is_closed(connection: &Option<Arc<Connection>>) -> bool {
        connection.as_ref().unwrap().close.is_cancelled()
    }

    #[test]
    fn silent_connections_give_way_and_busy_ones_do_not() {
        let (connections, mut admit) = connections(4, 3);
        let all: Vec<_> = [1, 1, 1, 2].map(|address| admit(&connections, address)).into();
        all[0].as_ref().unwrap().has_request.store(true, Ordering::Relaxed);
        // Too many of one address: its oldest silent one.
        let fourth = admit(&connections, 1);
        assert_eq!([0, 1, 2, 3].map(|place| is_closed(&all[place])), [false, true, false, false]);
        // Too many: the oldest silent one of the address that has most.
        let third = admit(&connections, 3);
        assert_eq!([0, 2, 3].map(|place| is_closed(&all[place])), [false, true, false]);
        assert!(!is_closed(&fourth) && !third.unwrap().is_reserve);
    }

    #[test]
    fn reserve_is_used_when_all_are_busy() {
        let (connections, mut admit) = connections(1, 1);
        let busy = admit(&connections, 1).unwrap();
        busy.has_request.store(true, Ordering::Relaxed);
        let reserve: Vec<_> = (0..RESERVE).map(|_| admit(&connections, 2).unwrap()).collect();
        assert!(reserve.iter().all(|connection| connection.is_reserve));
        assert!(admit(&connections, 2).is_some() && reserve[0].close.is_cancelled() && !busy.close.is_cancelled());
        for connection in connections.open().values() {
            connection.has_request.store(true, Ordering::Relaxed);
        }
        assert!(admit(&connections, 2).is_none());
    }
}
