//! `workflow-server health`.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use clap::Args;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The server itself gives PostgreSQL and Redis less.
const LIMIT: Duration = Duration::from_secs(5);

/// More than it ever says.
const MAX_ANSWER: usize = 64 * 1024;

/// Ask a workflow-server that runs for its /health, and print the answer.
///
/// Exits with 1 where it is not healthy, or does not answer within 5 s: for containers and other supervisors. Where both
/// have the same environment it needs no flags.
#[derive(Args)]
pub struct Arguments {
    /// Where it listens. Where that is 0.0.0.0 or ::, all addresses, the loopback address is asked.
    #[arg(long, env = "WORKFLOW_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

pub async fn run(arguments: &Arguments) -> Result<()> {
    let address = reachable(arguments.listen);
    let answer = tokio::time::timeout(LIMIT, ask(address)).await;
    let (status, body) = answer
        .unwrap_or_else(|_| bail!("no answer within {} s", LIMIT.as_secs()))
        .with_context(|| format!("cannot ask http://{address}/health"))?;
    if status != StatusCode::OK {
        bail!("http://{address} answers {status}: {body}");
    }
    Ok(writeln!(io::stdout(), "{body}")?)
}

/// An address to connect to, for one to listen on.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

async fn ask(address: SocketAddr) -> Result<(StatusCode, String)> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    // What goes wrong here, the request is told too.
    tokio::spawn(connection);
    let request = Request::get("/health").header(header::HOST, address.to_string()).body(Body::empty())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = to_bytes(Body::new(answer.into_body()), MAX_ANSWER).await?;
    Ok((status, String::from_utf8_lossy(&body).trim_end().to_owned()))
}
