//! Connections to Redis: to one server, to a cluster, or to the master that Sentinel names.

mod address;
mod connection;
mod discovery;
mod sentinel;
mod tls;

use std::fmt;
use std::time::Duration;

use redis::aio::{PubSubSink, PubSubStream};
use redis::{ClientTlsConfig, ConnectionInfo, RedisError, TlsCertificates};

use crate::Error;

pub use connection::RedisConnection;

/// Minimum time for each address, however many there are: TLS and a password take four round trips.
const LEAST_CONNECT_TIME: Duration = Duration::from_millis(500);

/// Names a Redis or Valkey: one server, a cluster, or sentinels.
///
/// Nothing is connected until [`connect`](RedisServer::connect).
///
/// ```
/// use pg_workflow_client::redis_server::RedisServer;
///
/// # fn main() -> Result<(), pg_workflow_client::Error> {
/// let one = RedisServer::parse("redis://relay:p%40ss@redis.example:6379")?;
/// assert_eq!(one.to_string(), "redis.example:6379");
/// let nodes = RedisServer::parse("redis://a.example:7000,redis://b.example:7000")?;
/// assert_eq!(nodes.to_string(), "a.example:7000, b.example:7000");
/// assert!(RedisServer::parse("http://example.org").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisServer {
    /// At least one address.
    addresses: Vec<ConnectionInfo>,
    certificates: TlsCertificates,
    sentinel_master: Option<String>,
}

impl RedisServer {
    /// Parses one URL, or several separated by commas.
    ///
    /// Several are nodes of a cluster, sentinels, or addresses of one Redis.
    ///
    /// `redis://user:password@host:port/database`, `rediss://…` for TLS, or `redis+unix:///path?user=…&pass=…&db=…`.
    /// URLs without user and password use those of the first URL. `?sentinel_master=NAME` is the same as
    /// [`with_sentinel_master`](Self::with_sentinel_master).
    ///
    /// # Errors
    /// Returns [`Error::RedisUrl`] if a URL is invalid. The error does not contain the password.
    pub fn parse(urls: &str) -> Result<RedisServer, Error> {
        let (addresses, sentinel_master) = address::read(urls)?;
        let certificates = TlsCertificates { client_tls: None, root_cert: None };
        Ok(RedisServer { addresses, certificates, sentinel_master })
    }

    /// Trusts the certificates in this PEM instead of those of the system.
    ///
    /// # Errors
    /// Returns [`Error::RedisUrl`] if it holds no certificate, or if no URL is `rediss://`.
    ///
    /// ```
    /// # use pg_workflow_client::redis_server::RedisServer;
    /// let server = RedisServer::parse("rediss://redis.example")?;
    /// assert!(server.with_ca(b"not a certificate".to_vec()).is_err());
    /// # Ok::<(), pg_workflow_client::Error>(())
    /// ```
    pub fn with_ca(mut self, pem: Vec<u8>) -> Result<RedisServer, Error> {
        tls::check_certificates(&pem, "the CA")?;
        self.certificates.root_cert = Some(pem);
        self.checked()
    }

    /// Presents this client certificate (PEM).
    ///
    /// A Redis with TLS requires one by default (`tls-auth-clients`).
    ///
    /// # Errors
    /// Returns [`Error::RedisUrl`] if they are not a certificate and a key, or if no URL is `rediss://`.
    pub fn with_client_certificate(mut self, certificate: Vec<u8>, key: Vec<u8>) -> Result<RedisServer, Error> {
        tls::check_certificates(&certificate, "the client certificate")?;
        self.certificates.client_tls = Some(ClientTlsConfig { client_cert: certificate, client_key: key });
        self.checked()
    }

    /// Sets the name of the master. Needed only if the sentinels watch several.
    pub fn with_sentinel_master(mut self, name: impl Into<String>) -> RedisServer {
        self.sentinel_master = Some(name.into());
        self
    }

    /// Connects to the server that accepts writes.
    ///
    /// `HELLO` tells which kind of server an address is.
    ///
    /// `connect` is the time limit for connecting, shared among the addresses, with at least 0.5 s for each, and the
    /// same again for the cluster's nodes or Sentinel's master. `response` is the time limit of each command. After an
    /// error, drop the connection: the fate of the command is unknown, and the master may have changed.
    ///
    /// # Errors
    /// Returns [`Error::Redis`], the error of the first address, if no address leads to a Redis that accepts writes.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use pg_workflow_client::redis_server::RedisServer;
    ///
    /// # async fn example() -> Result<(), pg_workflow_client::Error> {
    /// let server = RedisServer::parse("rediss://relay:secret@redis.example:6379")?;
    /// let mut redis = server.connect(Duration::from_secs(2), Duration::from_secs(5)).await?;
    /// let _: String = redis::cmd("PING").query_async(&mut redis).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(&self, connect: Duration, response: Duration) -> Result<RedisConnection, Error> {
        let limits = self.limits(connect, response);
        let mut first_error = None;
        for address in &self.addresses {
            match self.connect_through(address, limits).await {
                Ok(connection) => return Ok(connection),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(no_way(first_error))
    }

    /// Subscribes to a channel, on a connection of its own.
    pub(crate) async fn subscribe(
        &self,
        channel: &str,
        connect: Duration,
    ) -> Result<(PubSubSink, PubSubStream), Error> {
        let limits = self.limits(connect, connect);
        let mut first_error = None;
        for address in &self.addresses {
            match self.subscribe_through(address, channel, limits).await {
                Ok(subscription) => return Ok(subscription),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(no_way(first_error))
    }

    fn limits(&self, connect: Duration, response: Duration) -> discovery::Limits {
        let share = connect / u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        discovery::Limits { connect: share.max(LEAST_CONNECT_TIME).min(connect), response }
    }
}

fn no_way(first_error: Option<RedisError>) -> Error {
    Error::Redis(first_error.unwrap_or_else(|| discovery::refusal("ERR", "no address is given".to_owned())))
}

/// Writes the addresses, without user and password.
impl fmt::Display for RedisServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.addresses.iter().enumerate() {
            write!(out, "{}{}", if index == 0 { "" } else { ", " }, address.addr())?;
        }
        Ok(())
    }
}

/// Writes the same as [`Display`](fmt::Display): nothing secret.
impl fmt::Debug for RedisServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "RedisServer({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid(urls: &str) -> String {
        RedisServer::parse(urls).unwrap_err().to_string()
    }

    #[test]
    fn display_hides_user_and_password() {
        let server = RedisServer::parse("rediss://alice:s3cret@a:1,redis+unix:///run/r.sock?user=bob&pass=s3cret");
        let server = server.unwrap();
        assert_eq!(format!("{server}|{server:?}"), "a:1, /run/r.sock|RedisServer(a:1, /run/r.sock)");
    }

    #[test]
    fn comma_in_password_does_not_end_url() {
        let server = RedisServer::parse("redis://u:a,b@h:1,redis://g:2").unwrap();
        let passwords: Vec<_> = server.addresses.iter().map(|address| address.redis_settings().password()).collect();
        assert_eq!(passwords, [Some("a,b"), Some("a,b")], "the second uses the password of the first");
    }

    #[test]
    fn url_names_master_of_sentinels() {
        let server = RedisServer::parse("redis://s1:26379?sentinel_master=my%20master,redis://s2:26379").unwrap();
        assert_eq!(server.sentinel_master.as_deref(), Some("my master"));
    }

    #[test]
    fn invalid_url_is_rejected_without_showing_password() {
        for urls in ["", "http://u:s3cret@h", "localhost:6379", "redis://u:s3cret@h/x", "redis://u:s3cret@h:port"] {
            let error = invalid(urls);
            assert!(error.contains("redis://user:password@host:port") && !error.contains("s3cret"), "{error}");
        }
        assert!(invalid("rediss://h#insecure").contains("--redis-ca"));
    }

    #[test]
    fn certificates_require_tls() {
        let pem = include_bytes!("redis_server/example-ca.pem").to_vec();
        assert!(RedisServer::parse("rediss://h").unwrap().with_ca(pem.clone()).is_ok());
        let error = RedisServer::parse("redis://h").unwrap().with_ca(pem.clone()).unwrap_err().to_string();
        assert!(error.contains("rediss://"), "{error}");
        let error = RedisServer::parse("rediss://h").unwrap().with_client_certificate(pem, b"no key".to_vec());
        assert!(error.unwrap_err().to_string().contains("key"));
    }
}
