//! `workflow-server health`.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, Uri, header};
use clap::Args;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::token::Token;

/// More than the time limit that the server has for PostgreSQL and Redis.
const LIMIT: Duration = Duration::from_secs(5);

/// More than the longest response.
const MAX_RESPONSE: usize = 64 * 1024;

/// Print the /health of a running workflow-server
///
/// Exits with 1 if it is unhealthy or does not respond within 5 s: for containers and supervisors. Needs no flags if it has
/// the environment of the server. Without a token, the errors name no hosts, databases and roles.
#[derive(Args)]
pub struct Arguments {
    /// Address of the server; for 0.0.0.0 and :: the loopback address is used
    #[arg(long, env = "WORKFLOW_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// URL of the server, instead of its address
    #[arg(long, env = "WORKFLOW_URL", value_name = "URL", value_parser = parse_url)]
    url: Option<Uri>,

    #[command(flatten)]
    token: Token,
}

pub async fn run(arguments: &Arguments) -> Result<()> {
    let of_url = arguments.url.as_ref().and_then(Uri::authority);
    let server = of_url.map_or_else(|| address_to_connect(arguments.listen).to_string(), |of_url| of_url.to_string());
    let response = tokio::time::timeout(LIMIT, get_health(&server, arguments.token.get())).await;
    let (status, body) = response
        .unwrap_or_else(|_| bail!("no response within {} s", LIMIT.as_secs()))
        .with_context(|| format!("cannot reach http://{server}/health"))?;
    if status != StatusCode::OK {
        bail!("http://{server}/health returned {status}: {body}");
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

/// Parses the URL of a server: it speaks HTTP, and a proxy before it that speaks HTTPS has a check of its own.
fn parse_url(text: &str) -> Result<Uri, String> {
    let expected = "expected a URL such as http://127.0.0.1:8080";
    let url: Uri = text.parse().map_err(|_| expected)?;
    let is_root = matches!(url.path(), "" | "/") && url.query().is_none();
    if url.scheme_str() == Some("http") && url.host().is_some() && is_root { Ok(url) } else { Err(expected.to_owned()) }
}

async fn get_health(server: &str, token: Option<&str>) -> Result<(StatusCode, String)> {
    let has_port = server.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
    let address = if has_port { server.to_owned() } else { format!("{server}:80") };
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    // The request fails with the same error.
    tokio::spawn(connection);
    let mut request = Request::get("/health").header(header::HOST, server);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::empty())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = to_bytes(Body::new(response.into_body()), MAX_RESPONSE).await?;
    Ok((status, String::from_utf8_lossy(&body).trim_end().to_owned()))
}
