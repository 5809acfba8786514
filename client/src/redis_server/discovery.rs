//! Discovery: finds the kind of server at an address, and connects to the one that accepts writes.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::cluster::ClusterClient;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, ConnectionInfo, ErrorKind, RedisConnectionInfo, RedisError, RedisResult, Value, cmd,
    from_redis_value, make_extension_error,
};

use super::sentinel::Watch;
use super::{RedisConnection, RedisServer, tls};

/// In a cluster the driver retries while hash slots move. Not for long: the error names the cause.
const CLUSTER_RETRIES: u32 = 2;
const CLUSTER_RETRY_MILLISECONDS: (u64, u64) = (50, 300);

/// Time limits of connecting, and of each response.
#[derive(Clone, Copy)]
pub struct Limits {
    pub connect: Duration,
    pub response: Duration,
}

/// The kind of a server.
#[derive(Debug, PartialEq)]
pub enum Role {
    Master,
    Replica,
    Cluster,
    Sentinel,
}

/// Creates an error in the form of one of Redis, whose first word is the code.
pub fn refusal(code: &str, text: String) -> RedisError {
    make_extension_error(code.to_owned(), Some(text))
}

impl RedisServer {
    pub(super) async fn connect_through(
        &self,
        address: &ConnectionInfo,
        limits: Limits,
    ) -> RedisResult<RedisConnection> {
        let (connection, role) = self.ask(address, limits).await?;
        match role {
            Role::Cluster => Ok(self.connect_cluster(limits).await?.into()),
            Role::Sentinel => {
                let master = self.find_master(connection, address, limits).await?;
                let (connection, role) = self.reach(&master, limits).await?;
                let connection = in_database(master_only(connection, role, &master)?, &master).await?;
                Ok(RedisConnection::watched(connection, Watch::start(self.clone(), &master, limits)))
            }
            role => Ok(in_database(master_only(connection, role, address)?, address).await?.into()),
        }
    }

    /// Subscribes to a channel. A replica, and any node of a cluster, forwards the messages that are published on the
    /// master; with Sentinel, it is the master itself.
    pub(super) async fn subscribe_through(
        &self,
        address: &ConnectionInfo,
        channel: &str,
        limits: Limits,
    ) -> RedisResult<(PubSubSink, PubSubStream)> {
        let address = match self.ask(address, limits).await? {
            (sentinel, Role::Sentinel) => self.find_master(sentinel, address, limits).await?,
            _ => address.clone(),
        };
        let subscribing = async {
            let client = tls::client(address, &self.certificates)?;
            let (mut sink, stream) = client.get_async_pubsub().await?.split();
            sink.subscribe(channel).await?;
            Ok((sink, stream))
        };
        let too_late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no response to SUBSCRIBE").into());
        tokio::time::timeout(limits.connect, subscribing).await.unwrap_or_else(too_late)
    }

    /// Connects as [`reach`](Self::reach), without the password if it is rejected: sentinels often have none even if
    /// Redis has one. Only a sentinel is used in that way.
    pub(super) async fn ask(
        &self,
        address: &ConnectionInfo,
        limits: Limits,
    ) -> RedisResult<(MultiplexedConnection, Role)> {
        match self.reach(address, limits).await {
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed => {
                match self.reach(&without_credentials(address), limits).await {
                    Ok((connection, Role::Sentinel)) => Ok((connection, Role::Sentinel)),
                    _ => Err(error),
                }
            }
            outcome => outcome,
        }
    }

    /// Connects to one address and asks for its kind.
    async fn reach(&self, address: &ConnectionInfo, limits: Limits) -> RedisResult<(MultiplexedConnection, Role)> {
        let config = AsyncConnectionConfig::new()
            // The error below names the address.
            .set_connection_timeout(None)
            .set_response_timeout(Some(limits.response));
        let reaching = async {
            // A sentinel has no databases: select one only if the server is not a sentinel.
            let client = tls::client(in_first_database(address), &self.certificates)?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let role = role(&mut connection).await?;
            Ok((connection, role))
        };
        let too_late = || {
            let text = format!("no response from {} within {} s", address.addr(), limits.connect.as_secs_f32());
            Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
        };
        tokio::time::timeout(limits.connect, reaching).await.unwrap_or_else(|_| too_late())
    }

    async fn connect_cluster(&self, limits: Limits) -> RedisResult<redis::cluster_async::ClusterConnection> {
        let mut cluster = ClusterClient::builder(self.addresses.clone())
            .connection_timeout(limits.connect)
            .response_timeout(limits.response)
            .tcp_settings(TcpSettings::default().set_nodelay(true))
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(CLUSTER_RETRY_MILLISECONDS.0)
            .max_retry_wait(CLUSTER_RETRY_MILLISECONDS.1);
        if self.addresses.iter().any(tls::is_tls) {
            cluster = cluster.certs(self.certificates.clone());
        }
        cluster.build()?.get_async_connection().await
    }
}

/// Parses the response to `HELLO`. A server, or a proxy, that does not know or allow `HELLO` counts as a single
/// Redis.
async fn role(connection: &mut MultiplexedConnection) -> RedisResult<Role> {
    let hello: Value = match cmd("HELLO").query_async(connection).await {
        Ok(hello) => hello,
        Err(error) if matches!(error.code(), Some("ERR" | "NOPERM" | "NOPROTO")) => return Ok(Role::Master),
        Err(error) => return Err(error),
    };
    let mut hello: HashMap<String, Value> = from_redis_value(hello)?;
    let mut text = |name| hello.remove(name).and_then(|value| from_redis_value::<String>(value).ok());
    Ok(match (text("mode").as_deref(), text("role").as_deref()) {
        (Some("cluster"), _) => Role::Cluster,
        (Some("sentinel"), _) => Role::Sentinel,
        (_, Some("replica" | "slave")) => Role::Replica,
        _ => Role::Master,
    })
}

fn master_only(
    connection: MultiplexedConnection,
    role: Role,
    address: &ConnectionInfo,
) -> RedisResult<MultiplexedConnection> {
    match role {
        Role::Replica => Err(refusal("READONLY", format!("{} is a replica", address.addr()))),
        _ => Ok(connection),
    }
}

async fn in_database(
    mut connection: MultiplexedConnection,
    address: &ConnectionInfo,
) -> RedisResult<MultiplexedConnection> {
    match address.redis_settings().db() {
        0 => {}
        database => cmd("SELECT").arg(database).query_async(&mut connection).await?,
    }
    Ok(connection)
}

fn in_first_database(address: &ConnectionInfo) -> ConnectionInfo {
    let settings = address.redis_settings().clone().set_db(0);
    address.clone().set_redis_settings(settings)
}

fn without_credentials(address: &ConnectionInfo) -> ConnectionInfo {
    let settings = RedisConnectionInfo::default().set_protocol(address.redis_settings().protocol());
    address.clone().set_redis_settings(settings)
}
