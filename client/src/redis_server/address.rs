//! Parsing Redis URLs.

use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, parse_redis_url};

use crate::Error;

const SCHEMES: [&str; 7] = ["redis", "rediss", "valkey", "valkeys", "redis+unix", "valkey+unix", "unix"];

/// Parses the addresses, at least one, and the name of the sentinels' master, if a URL sets it.
pub fn read(urls: &str) -> Result<(Vec<ConnectionInfo>, Option<String>), Error> {
    let mut addresses: Vec<ConnectionInfo> = Vec::new();
    let mut master = None;
    for url in split(urls) {
        let url = parse_redis_url(url).ok_or_else(|| invalid("it is not a URL of Redis"))?;
        master = master.or_else(|| sentinel_master(url.query_pairs()));
        let address = url.into_connection_info().map_err(|error| invalid(&error.to_string()))?;
        addresses.push(completed(address, addresses.first())?);
    }
    Ok((addresses, master))
}

pub fn invalid(why: &str) -> Error {
    Error::RedisUrl(why.to_owned())
}

/// Splits at each comma that a URL follows: a password can contain commas too.
fn split(urls: &str) -> Vec<&str> {
    let begins_url = |text: &str| SCHEMES.iter().any(|scheme| text.strip_prefix(scheme).is_some_and(is_scheme_end));
    let mut parts = Vec::new();
    let mut start = 0;
    for (comma, _) in urls.match_indices(',') {
        if begins_url(urls[comma + 1..].trim_start()) {
            parts.push(urls[start..comma].trim());
            start = comma + 1;
        }
    }
    parts.push(urls[start..].trim());
    parts
}

fn is_scheme_end(text: &str) -> bool {
    text.starts_with("://")
}

fn sentinel_master<'a>(
    mut query: impl Iterator<Item = (std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>)>,
) -> Option<String> {
    query.find(|(name, _)| name == "sentinel_master").map(|(_, value)| value.into_owned())
}

/// Adds the settings that the URL does not have.
fn completed(address: ConnectionInfo, first: Option<&ConnectionInfo>) -> Result<ConnectionInfo, Error> {
    if let ConnectionAddr::TcpTls { insecure: true, .. } = address.addr() {
        return Err(invalid(
            "certificates are always checked: instead of #insecure, name a private CA with --redis-ca",
        ));
    }
    // Nagle's algorithm, on by default here, would hold an event back until the one before it is acknowledged.
    let address = address.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    // The driver does not send its name: most Redis users lack the right, and Redis records each denial in its ACL
    // LOG.
    let settings = address.redis_settings().clone().set_skip_set_lib_name();
    let address = address.set_redis_settings(settings);
    let Some(first) = first else { return Ok(address) };
    let own = address.redis_settings();
    if own.username().is_some() || own.password().is_some() {
        return Ok(address);
    }
    let settings = with_credentials_of(own.clone(), first.redis_settings());
    Ok(address.set_redis_settings(settings))
}

fn with_credentials_of(mut settings: RedisConnectionInfo, first: &RedisConnectionInfo) -> RedisConnectionInfo {
    if let Some(user) = first.username() {
        settings = settings.set_username(user);
    }
    if let Some(password) = first.password() {
        settings = settings.set_password(password);
    }
    settings
}
