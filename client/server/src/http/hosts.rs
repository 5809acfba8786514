//! Names under which the server is reached. A browser sends the name in the page's address; a page of an attacker, whose
//! name resolves to this server (DNS rebinding), must not read it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// The accepted values of the header `Host`.
#[derive(Clone)]
pub struct Hosts {
    names: Arc<[String]>,
    is_loopback: bool,
}

impl Hosts {
    /// The hosts of a server that listens on this address.
    pub fn new(listen: SocketAddr, names: &[String]) -> Hosts {
        Hosts { names: names.into(), is_loopback: listen.ip().to_canonical().is_loopback() }
    }

    /// Loopback and the given names. A server that listens on other addresses accepts those too, which no attacker can
    /// redirect: names he can, also to a server that only this machine or this network reaches.
    fn admit(&self, authority: &str) -> bool {
        let host = host(authority);
        if is_loopback(host) || self.names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
            return true;
        }
        !self.is_loopback && address(host).is_some()
    }
}

/// Returns the part before the port.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => {
            host.trim_end_matches('.')
        }
        _ => authority.trim_end_matches('.'),
    }
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_loopback(host: &str) -> bool {
    let is_name = host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    is_name || address(host).is_some_and(|address| address.to_canonical().is_loopback())
}

/// Rejects requests for another host. Without the header, which HTTP/1.0 does not require, no browser sent it.
pub async fn check_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let given = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let refused = given.chain(request.uri().authority().map(|authority| authority.as_str()));
    match refused.into_iter().find(|authority| !hosts.admit(authority)).map(str::to_owned) {
        Some(authority) => ApiError::misdirected(&authority).into_response(),
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_server_accepts_loopback_and_given_names() {
        let hosts = Hosts::new("127.0.0.1:80".parse().unwrap(), &["Workflow.example".to_owned()]);
        for good in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.8.0.1:1",
            "[::1]",
            "[::1]:8080",
            "localhost",
            "LOCALHOST:80",
            "a.localhost",
            "localhost.",
            "workflow.example",
            "workflow.EXAMPLE:443",
        ] {
            assert!(hosts.admit(good), "{good}");
        }
        for bad in [
            "",
            "x",
            "evil.example",
            "evil.example:8080",
            "192.168.0.7",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "a@localhost",
            "workflow.example.evil",
            "[fe80::1]:80",
            "0.0.0.0",
        ] {
            assert!(!hosts.admit(bad), "{bad}");
        }
    }

    #[test]
    fn other_server_accepts_addresses_and_given_names() {
        let any = Hosts::new("0.0.0.0:80".parse().unwrap(), &[]);
        assert!(any.admit("10.0.0.7:80") && any.admit("[fe80::1]:80") && any.admit("localhost"));
        assert!(!any.admit("workflow.example") && !any.admit("evil.example:80"));
        let named = Hosts::new("[::]:80".parse().unwrap(), &["workflow.example".to_owned()]);
        assert!(named.admit("workflow.example") && named.admit("10.0.0.7:80") && named.admit("localhost"));
        assert!(!named.admit("evil.example"));
    }
}
