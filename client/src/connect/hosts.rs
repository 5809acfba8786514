//! Connecting to one of several hosts, of which some can hang.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::seq::SliceRandom;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::within;
use crate::Error;

/// A host that has not responded after this time does not hold up the next one. It may still win.
const HEAD_START: Duration = Duration::from_millis(500);

type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
pub type Connected = (tokio_postgres::Client, Connection<Socket, Stream>);

/// Connects to the first host that responds and is what `target_session_attrs` asks for.
///
/// Each address has this time limit of its own, up to the end of the handshake.
pub async fn connect(hosts: Vec<Config>, tls: &MakeRustlsConnect, limit: Duration) -> Result<Connected, Error> {
    first_of(hosts, |host| connect_to(host, tls, limit)).await
}

/// Connects to a host with one name, which can have several addresses.
async fn connect_to(host: Config, tls: &MakeRustlsConnect, limit: Duration) -> Result<Connected, Error> {
    let addresses = tokio::time::timeout(limit, resolve(&host)).await.unwrap_or(Err(Error::Timeout(limit)))?;
    first_of(addresses, |config| async move { within(limit, config.connect(tls.clone())).await }).await
}

/// Returns a configuration for each address of the host.
async fn resolve(host: &Config) -> Result<Vec<Config>, Error> {
    let port = host.get_ports().first().copied().unwrap_or(5432);
    let ([Host::Tcp(name)], []) = (host.get_hosts(), host.get_hostaddrs()) else { return Ok(vec![host.clone()]) };
    let found: Vec<SocketAddr> = match tokio::net::lookup_host((name.as_str(), port)).await {
        Ok(found) => found.collect(),
        // The driver's own attempt reports it.
        Err(_) => Vec::new(),
    };
    if found.is_empty() {
        return Ok(vec![host.clone()]);
    }
    let with_address = |address: SocketAddr| host.clone().hostaddr(address.ip()).clone();
    Ok(found.into_iter().map(with_address).collect())
}

/// Tries the candidates in this order, each some time after the previous one, or as soon as all earlier ones have failed.
async fn first_of<C, T, F>(candidates: Vec<C>, try_one: impl Fn(C) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let (mut waiting, mut trying) = (candidates.into_iter(), FuturesUnordered::new());
    let mut failure = None;
    loop {
        if trying.is_empty() {
            match waiting.next() {
                Some(next) => trying.push(try_one(next)),
                None => return Err(failure.unwrap_or_else(|| Error::Unknown("no host".to_owned()))),
            }
        }
        tokio::select! {
            tried = trying.next() => match tried {
                Some(Ok(connected)) => return Ok(connected),
                // A host that answers tells more than one that hangs.
                Some(Err(Error::Timeout(_))) if failure.is_some() => (),
                Some(Err(error)) => failure = Some(error),
                None => (),
            },
            () = tokio::time::sleep(HEAD_START), if waiting.len() > 0 => trying.extend(waiting.next().map(&try_one)),
        }
    }
}

/// Checks that hosts, addresses and ports are equally many, where several are given.
pub fn check_numbers(config: &Config) -> Result<(), String> {
    let (hosts, addresses, ports) = (config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len());
    if hosts > 0 && addresses > 0 && hosts != addresses {
        return Err(format!("it has {hosts} hosts and {addresses} addresses (hostaddr)"));
    }
    if ports > 1 && ports != hosts.max(addresses) {
        return Err(format!("it has {} hosts and {ports} ports", hosts.max(addresses)));
    }
    Ok(())
}

/// Splits a configuration into one for each host, in the order in which to try them.
pub fn each_host(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let one = |index: usize| {
        let mut one = without_hosts(config);
        match hosts.get(index) {
            Some(Host::Tcp(name)) => one.host(name),
            Some(Host::Unix(path)) => one.host_path(path),
            None => &mut one,
        };
        if let Some(address) = addresses.get(index) {
            one.hostaddr(*address);
        }
        if let Some(port) = ports.get(index).or(ports.first()) {
            one.port(*port);
        }
        one
    };
    let mut all: Vec<Config> = (0..hosts.len().max(addresses.len())).map(one).collect();
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        all.shuffle(&mut rand::rng());
    }
    all
}

/// Copies a configuration: the driver has no way to remove its hosts.
fn without_hosts(config: &Config) -> Config {
    let mut copy = Config::new();
    if let Some(user) = config.get_user() {
        copy.user(user);
    }
    if let Some(password) = config.get_password() {
        copy.password(password);
    }
    if let Some(name) = config.get_dbname() {
        copy.dbname(name);
    }
    if let Some(options) = config.get_options() {
        copy.options(options);
    }
    if let Some(name) = config.get_application_name() {
        copy.application_name(name);
    }
    if let Some(limit) = config.get_connect_timeout() {
        copy.connect_timeout(*limit);
    }
    if let Some(limit) = config.get_tcp_user_timeout() {
        copy.tcp_user_timeout(*limit);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        copy.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        copy.keepalives_retries(retries);
    }
    copy.keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .channel_binding(config.get_channel_binding())
        .target_session_attrs(config.get_target_session_attrs())
        .clone()
}
