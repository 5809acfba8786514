//! Where Redis is, and connecting to it: one server, a cluster, or the master that Sentinel names.

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

/// Each address is given at least this, however many there are: TLS and a password take four round trips.
const LEAST_CONNECT_TIME: Duration = Duration::from_millis(500);

/// A Redis, or Valkey, as its operator names it. Nothing is connected yet.
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
    /// At least one.
    addresses: Vec<ConnectionInfo>,
    certificates: TlsCertificates,
    sentinel_master: Option<String>,
}

impl RedisServer {
    /// Reads one URL, or several with commas between them: nodes of one cluster, the sentinels of one Redis, or several
    /// addresses of it.
    ///
    /// `redis://user:password@host:port/database`, `rediss://…` for TLS, or `redis+unix:///path?user=…&pass=…&db=…`.
    /// URLs without user and password use those of the first. `?sentinel_master=NAME` is the same as
    /// [`with_sentinel_master`](Self::with_sentinel_master).
    ///
    /// # Errors
    /// [`Error::RedisUrl`], which does not contain the password.
    pub fn parse(urls: &str) -> Result<RedisServer, Error> {
        let (addresses, sentinel_master) = address::read(urls)?;
        let certificates = TlsCertificates { client_tls: None, root_cert: None };
        Ok(RedisServer { addresses, certificates, sentinel_master })
    }

    /// Trusts the certificates in this PEM, and no longer those of the system.
    ///
    /// # Errors
    /// [`Error::RedisUrl`] where it holds no certificate, or where no URL is `rediss://`.
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

    /// Shows this certificate, for a Redis that asks for one (`tls-auth-clients`, its default). Both are PEM.
    ///
    /// # Errors
    /// [`Error::RedisUrl`] where they are not a certificate and a key, or where no URL is `rediss://`.
    pub fn with_client_certificate(mut self, certificate: Vec<u8>, key: Vec<u8>) -> Result<RedisServer, Error> {
        tls::check_certificates(&certificate, "the client certificate")?;
        self.certificates.client_tls = Some(ClientTlsConfig { client_cert: certificate, client_key: key });
        self.checked()
    }

    /// Which master to ask the sentinels for. Needed only where they watch several.
    pub fn with_sentinel_master(mut self, name: impl Into<String>) -> RedisServer {
        self.sentinel_master = Some(name.into());
        self
    }

    /// Connects. What is behind the addresses is found out by asking `HELLO`.
    ///
    /// `connect` is how long that may take (shared among the addresses, at least 0.5 s for each; as long again for the
    /// cluster's nodes or Sentinel's master), `answer` the time limit of each command from then on. After an error a
    /// connection is best dropped: what has become of the command is unknown, and the master may be another.
    ///
    /// # Errors
    /// [`Error::Redis`] where none of the addresses leads to a Redis that takes writes: why the first does not.
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
    pub async fn connect(&self, connect: Duration, answer: Duration) -> Result<RedisConnection, Error> {
        let limits = self.limits(connect, answer);
        let mut first_error = None;
        for address in &self.addresses {
            match self.connect_through(address, limits).await {
                Ok(connection) => return Ok(connection),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(no_way(first_error))
    }

    /// Subscribes to a channel, over a connection of its own.
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

    fn limits(&self, connect: Duration, answer: Duration) -> discovery::Limits {
        let share = connect / u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        discovery::Limits { connect: share.max(LEAST_CONNECT_TIME).min(connect), answer }
    }
}

fn no_way(first_error: Option<RedisError>) -> Error {
    Error::Redis(first_error.unwrap_or_else(|| discovery::refusal("ERR", "no address is given".to_owned())))
}

/// The addresses, without user and password.
impl fmt::Display for RedisServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.addresses.iter().enumerate() {
            write!(out, "{}{}", if index == 0 { "" } else { ", " }, address.addr())?;
        }
        Ok(())
    }
}

/// As [`Display`](fmt::Display): nothing secret.
impl fmt::Debug for RedisServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "RedisServer({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(urls: &str) -> String {
        RedisServer::parse(urls).unwrap_err().to_string()
    }

    #[test]
    fn it_shows_neither_user_nor_password() {
        let server = RedisServer::parse("rediss://alice:s3cret@a:1,redis+unix:///run/r.sock?user=bob&pass=s3cret");
        let server = server.unwrap();
        assert_eq!(format!("{server}|{server:?}"), "a:1, /run/r.sock|RedisServer(a:1, /run/r.sock)");
    }

    #[test]
    fn a_comma_in_a_password_does_not_end_the_url() {
        let server = RedisServer::parse("redis://u:a,b@h:1,redis://g:2").unwrap();
        let passwords: Vec<_> = server.addresses.iter().map(|address| address.redis_settings().password()).collect();
        assert_eq!(passwords, [Some("a,b"), Some("a,b")], "the second uses the password of the first");
    }

    #[test]
    fn the_url_may_name_the_sentinels_master() {
        let server = RedisServer::parse("redis://s1:26379?sentinel_master=my%20master,redis://s2:26379").unwrap();
        assert_eq!(server.sentinel_master.as_deref(), Some("my master"));
    }

    #[test]
    fn nonsense_is_refused_without_saying_the_password() {
        for urls in ["", "http://u:s3cret@h", "localhost:6379", "redis://u:s3cret@h/x", "redis://u:s3cret@h:port"] {
            let error = refused(urls);
            assert!(error.contains("redis://user:password@host:port") && !error.contains("s3cret"), "{error}");
        }
        assert!(refused("rediss://h#insecure").contains("--redis-ca"));
    }

    #[test]
    fn certificates_need_tls() {
        let pem = include_bytes!("redis_server/example-ca.pem").to_vec();
        assert!(RedisServer::parse("rediss://h").unwrap().with_ca(pem.clone()).is_ok());
        let error = RedisServer::parse("redis://h").unwrap().with_ca(pem.clone()).unwrap_err().to_string();
        assert!(error.contains("rediss://"), "{error}");
        let error = RedisServer::parse("rediss://h").unwrap().with_client_certificate(pem, b"no key".to_vec());
        assert!(error.unwrap_err().to_string().contains("key"));
    }
}
