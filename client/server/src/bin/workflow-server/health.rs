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

/// More than the time limit that the server has for PostgreSQL and Redis.
const LIMIT: Duration = Duration::from_secs(5);

/// More than the longest response.
const MAX_RESPONSE: usize = 64 * 1024;

/// Print the /health of a running workflow-server
///
/// Exits with 1 if it is unhealthy or does not respond within 5 s: for containers and supervisors. Needs no flags if it has
/// the environment of the server.
#[derive(Args)]
pub struct Arguments {
    /// Address of the server; for 0.0.0.0 and :: the loopback address is used
    #[arg(long, env = "WORKFLOW_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Token of the server: without it, the errors name no hosts, databases and roles
    #[arg(long, env = "WORKFLOW_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

pub async fn run(arguments: &Arguments) -> Result<()> {
    let address = address_to_connect(arguments.listen);
    let response = tokio::time::timeout(LIMIT, get_health(address, arguments.token.as_deref())).await;
    let (status, body) = response
        .unwrap_or_else(|_| bail!("no response within {} s", LIMIT.as_secs()))
        .with_context(|| format!("cannot reach http://{address}/health"))?;
    if status != StatusCode::OK {
        bail!("http://{address}/health returned {status}: {body}");
    }
    Ok(writeln!(io::stdout(), "{body}")?)
}

/// Returns the address to connect to, for an address to listen on.
fn address_to_connect(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

async fn get_health(address: SocketAddr, token: Option<&str>) -> Result<(StatusCode, String)> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    // The request fails with the same error.
    tokio::spawn(connection);
    let mut request = Request::get("/health").header(header::HOST, address.to_string());
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::empty())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = to_bytes(Body::new(response.into_body()), MAX_RESPONSE).await?;
    Ok((status, String::from_utf8_lossy(&body).trim_end().to_owned()))
}
