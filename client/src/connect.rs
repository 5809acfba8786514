//! Connections to PostgreSQL that notice when the server is gone.

use std::future::{Future, poll_fn};
use std::time::Duration;

use bb8_postgres::PostgresConnectionManager;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, config::TargetSessionAttrs};

use crate::Error;

/// Connections to share.
pub(crate) type Pool = bb8::Pool<PostgresConnectionManager<NoTls>>;

/// A statement that has not been answered by then counts as an outage: a server can hang with its connection intact.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long sent data may stay unacknowledged, and how long a silent connection goes unprobed. The defaults of the
/// operating system are 15 minutes and 2 hours.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(5);
const LIBPQ_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);

/// Reads a connection string, `postgres://…` or `host=… dbname=…`, and adds the time limits it does not give.
///
/// Without a host it means the local socket, as for psql. Of several hosts it means the one that accepts writes,
/// unless it says otherwise.
///
/// # Errors
/// [`Error::ConnectionString`].
///
/// ```
/// let config = pg_workflow_client::connect::config("postgres://alice@db.example/workflow")?;
/// assert_eq!(config.get_dbname(), Some("workflow"));
/// # Ok::<(), pg_workflow_client::Error>(())
/// ```
pub fn config(url: &str) -> Result<Config, Error> {
    if url.trim().is_empty() {
        return Err(Error::ConnectionString("it is empty".to_owned()));
    }
    let mut config: Config =
        url.parse().map_err(|error| Error::ConnectionString(Error::Postgres(error).to_string()))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host("/var/run/postgresql");
    }
    if config.get_hosts().len() > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    if config.get_keepalives_idle() == LIBPQ_KEEPALIVE {
        config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE).keepalives_retries(2);
    }
    if config.get_application_name().is_none() {
        config.application_name("workflow-server");
    }
    Ok(config)
}

/// Opens one connection.
///
/// # Errors
/// [`Error::Postgres`] or [`Error::Timeout`].
pub async fn connect(config: &Config) -> Result<Client, Error> {
    connect_hearing(config, |_| ()).await
}

/// Opens one connection and calls `hear` with the payload of each notification. It must not block: the answers of
/// the connection's statements come after it.
pub(crate) async fn connect_hearing(
    config: &Config,
    mut hear: impl FnMut(&str) + Send + 'static,
) -> Result<Client, Error> {
    // connect_timeout covers the TCP connection only, not a server that accepts and then hangs.
    let (client, mut connection) = within(STATEMENT_TIMEOUT, config.connect(NoTls)).await?;
    tokio::spawn(async move {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(notification))) => hear(notification.payload()),
                Some(Ok(_)) => (),
                Some(Err(error)) => return tracing::debug!("connection ended: {}", Error::from(error)),
                None => return,
            }
        }
    });
    Ok(client)
}

/// Makes a pool of at most `size` connections (at least 1). It opens them when they are needed, so it needs no
/// server yet.
///
/// `patience` is how long a caller waits for a connection. `options` are settings of each connection, in the form of
/// the server's command line (`-c name=value`).
pub(crate) fn pool(config: &Config, size: u32, patience: Duration, options: &str) -> Pool {
    let mut config = config.clone();
    config.options(format!("{} {options}", config.get_options().unwrap_or_default()).trim());
    bb8::Pool::builder()
        .max_size(size.max(1))
        .connection_timeout(patience)
        .build_unchecked(PostgresConnectionManager::new(config, NoTls))
}

/// Takes a connection out of the pool until it is dropped.
pub(crate) async fn take(pool: &Pool) -> Result<bb8::PooledConnection<'_, PostgresConnectionManager<NoTls>>, Error> {
    pool.get().await.map_err(|error| match error {
        bb8::RunError::User(error) => Error::from(error),
        bb8::RunError::TimedOut => Error::Timeout(pool.config().connection_timeout),
    })
}

/// Gives up on a statement that is not answered in time.
pub(crate) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Timeout(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_connection_string_says_goes_first() {
        let config = config("postgres://a@h/d?connect_timeout=7&keepalives_idle=60&application_name=mine").unwrap();
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(60));
        assert_eq!(config.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
        assert_eq!(config.get_application_name(), Some("mine"));
    }

    #[test]
    fn nonsense_is_refused() {
        for url in ["", "postgres://h:port/d", "localhost"] {
            let error = config(url).unwrap_err().to_string();
            assert!(error.contains("expected postgres://"), "{error}");
        }
    }
}
