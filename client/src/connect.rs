//! Connections to PostgreSQL, with time limits that detect an unavailable server.

mod client;
mod hosts;
mod passwords;
mod settings;
mod tls;
mod url;

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, CancelToken, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::Error;

pub use client::Client;
use passwords::Passwords;
use settings::Settings;

/// A statement without a response within this time counts as an outage: a server can hang with its connection intact.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time until sent data must be acknowledged, and until a silent connection is probed. The defaults of the operating
/// system are 15 minutes and 2 hours.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(5);
const LIBPQ_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);
/// Names a PostgreSQL server: one host, or several with one primary.
///
/// Nothing is connected until [`connect`](PostgresServer::connect).
///
/// ```
/// use pg_workflow_client::connect::PostgresServer;
///
/// let server = PostgresServer::parse("postgres://alice:s3cret@a.example,b.example/workflow?sslmode=verify-full")?;
/// assert_eq!(server.to_string(), "a.example, b.example, database workflow");
/// # Ok::<(), pg_workflow_client::Error>(())
/// ```
#[derive(Clone)]
pub struct PostgresServer {
    config: Config,
    tls: MakeRustlsConnect,
    /// Time limit of a handshake with one address.
    connect_limit: Duration,
    passwords: Passwords,
    settings: Settings,
    cancels_statements: bool,
}

impl PostgresServer {
    /// Parses a connection string, `postgres://…` or `host=… dbname=…`.
    ///
    /// Adds the time limits that the string does not set.
    ///
    /// Without a host, the local socket is used, as in psql. With several hosts, the client finds the one that
    /// accepts writes, unless `target_session_attrs` is `any` or `read-only`. `sslmode` (default `prefer`),
    /// `sslrootcert` (a PEM file, or `system`), `sslcert` and `sslkey` work as in psql, with one exception: without
    /// `sslrootcert`, the authorities of the system are trusted. A password that is not in the string is taken from
    /// `PGPASSWORD`, or from the password file (`PGPASSFILE`, `~/.pgpass`). Service files and other variables are not read.
    ///
    /// # Errors
    /// Returns [`Error::ConnectionString`] if the string is invalid, or if a file that it names cannot be read.
    pub fn parse(text: &str) -> Result<PostgresServer, Error> {
        if text.trim().is_empty() {
            return Err(Error::ConnectionString("it is empty".to_owned()));
        }
        let (text, tls) = url::part(text).map_err(Error::ConnectionString)?;
        let config: Config = text.parse().map_err(|error| Error::ConnectionString(reason(&error)))?;
        if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err(Error::ConnectionString("write \"@\" in a user or password as %40".to_owned()));
        }
        hosts::check_numbers(&config).map_err(Error::ConnectionString)?;
        let tls = tls::connector(&tls).map_err(Error::ConnectionString)?;
        let connect_limit = config.get_connect_timeout().copied().unwrap_or(STATEMENT_TIMEOUT);
        let (config, passwords) = (with_limits(config), Passwords::of_environment());
        let settings = Settings::default();
        Ok(PostgresServer { config, tls, connect_limit, passwords, settings, cancels_statements: false })
    }

    /// Sets the default `application_name` of the connections.
    pub fn with_application_name(mut self, name: &str) -> PostgresServer {
        if self.config.get_application_name().is_none() {
            self.config.application_name(name);
        }
        self
    }

    /// Connects to the first reachable host, for programs that only read.
    ///
    /// `target_session_attrs=read-only`, which requires a standby, stays.
    ///
    /// ```
    /// use pg_workflow_client::connect::PostgresServer;
    ///
    /// let server = PostgresServer::parse("postgres://alice@standby.example,primary.example/workflow")?.to_read_from();
    /// # Ok::<(), pg_workflow_client::Error>(())
    /// ```
    pub fn to_read_from(mut self) -> PostgresServer {
        if self.config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite {
            self.config.target_session_attrs(TargetSessionAttrs::Any);
        }
        self
    }

    /// Adds `options` to those of the connection string, in the form `-c name=value`. Poolers do not pass these on.
    pub fn with_settings(mut self, settings: &str) -> PostgresServer {
        let given = self.config.get_options().unwrap_or_default();
        self.config.options(format!("{given} {settings}").trim());
        self
    }

    /// Sets a setting of the server for each connection, whatever the default is. Behind a pooler, each statement of this
    /// library sets it for its transaction.
    pub fn with_setting(mut self, name: &str, value: &str) -> PostgresServer {
        self.settings.set(name, value);
        self
    }

    /// Sets what the relay, readers of the feed and `workflow-server` rely on, whatever the defaults of the database and of
    /// the role are: isolation level, no time limits of the server, spelling of strings, row security. The defaults stay
    /// for `default_transaction_read_only`, which an operator sets on purpose.
    pub fn with_fixed_settings(mut self) -> PostgresServer {
        self.settings.fix();
        self
    }

    /// Makes every transaction read-only.
    pub fn with_read_only_transactions(mut self) -> PostgresServer {
        self.settings.set_read_only();
        self
    }

    /// Cancels the statement in progress when a connection is dropped, rather than only closing the connection.
    ///
    /// Not for transitions: a commit that waits for a synchronous standby would be visible before it is safe.
    pub fn with_cancellation(mut self) -> PostgresServer {
        self.cancels_statements = true;
        self
    }

    /// Opens one connection.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), pg_workflow_client::Error> {
    /// use pg_workflow_client::connect::PostgresServer;
    ///
    /// let client = PostgresServer::parse("postgres://alice@db.example/workflow")?.connect().await?;
    /// client.query_one("SELECT workflow.version()", &[]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(&self) -> Result<Client, Error> {
        self.connect_hearing(|_| ()).await
    }

    /// Opens one connection and calls `hear` with the payload of each notification.
    ///
    /// `hear` must not block: the responses to the connection's statements come after it.
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn connect_listening(&self, mut hear: impl FnMut(&str) + Send + 'static) -> Result<Client, Error> {
        let of_notifications = move |message: &AsyncMessage| {
            if let AsyncMessage::Notification(notification) = message {
                hear(notification.payload());
            }
        };
        self.connect_hearing(of_notifications).await
    }

    /// Opens one connection and calls `hear` with each warning of the server, `MESSAGE (SQLSTATE)`.
    ///
    /// `hear` must not block, as in [`connect_listening`](PostgresServer::connect_listening).
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] or [`Error::Timeout`] if the server is unavailable.
    pub async fn connect_with_warnings(&self, mut hear: impl FnMut(&str) + Send + 'static) -> Result<Client, Error> {
        let of_warnings = move |message: &AsyncMessage| match message {
            AsyncMessage::Notice(notice) if notice.parsed_severity() == Some(Severity::Warning) => {
                hear(&format!("{} ({})", notice.message(), notice.code().code()));
            }
            _ => (),
        };
        self.connect_hearing(of_warnings).await
    }

    async fn connect_hearing(&self, hear: impl FnMut(&AsyncMessage) + Send + 'static) -> Result<Client, Error> {
        let first = self.open(self.settings.options(&self.config)).await;
        let (client, connection) = match first {
            Err(error) if self.settings.are_refused_by(&error) => {
                self.check_options()?;
                self.open(self.config.clone()).await?
            }
            first => first?,
        };
        let mut client = Client::start(client, connection, self.clone(), hear);
        if !within(STATEMENT_TIMEOUT, self.settings.have_arrived(client.driver())).await? {
            self.check_options()?;
            client.set_pooled(self.settings.of_transaction());
        } else if self.settings.is_read_only() {
            // Not in the options: of several hosts, the one that takes writes is the primary.
            let read_only = client.driver().batch_execute("SET default_transaction_read_only = on");
            within(STATEMENT_TIMEOUT, read_only).await?;
        }
        Ok(client)
    }

    /// Rejects `options` of the caller, which a pooler does not pass on.
    fn check_options(&self) -> Result<(), Error> {
        match self.config.get_options() {
            None | Some("") => Ok(()),
            Some(_) => Err(Error::OptionsLost { server: self.to_string() }),
        }
    }

    async fn open(&self, config: Config) -> Result<hosts::Connected, Error> {
        let mut hosts = hosts::each_host(&config);
        hosts.iter_mut().for_each(|host| self.passwords.apply(host));
        hosts::connect(hosts, &self.tls, self.connect_limit).await
    }

    /// Cancels the current statement of a connection. If that fails, the statement ends later.
    pub(crate) async fn cancel(&self, token: &CancelToken) {
        if let Err(error) = within(CONNECT_TIMEOUT, token.cancel_query(self.tls.clone())).await {
            tracing::debug!("cannot cancel a statement: {error}");
        }
    }
}

/// Writes hosts and database, without user and password.
impl fmt::Display for PostgresServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<String> = hosts.collect();
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or("of the user's name");
        write!(out, "{}, database {database}", hosts.join(", "))
    }
}

/// Writes the same as [`Display`](fmt::Display): nothing secret.
impl fmt::Debug for PostgresServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PostgresServer({self})")
    }
}

fn with_limits(mut config: Config) -> Config {
    if config.get_hosts().is_empty() {
        // TLS needs a name for the server, which can be its address.
        let addresses: Vec<String> = config.get_hostaddrs().iter().map(ToString::to_string).collect();
        for address in &addresses {
            config.host(address);
        }
        if addresses.is_empty() {
            config.host("/var/run/postgresql");
        }
    }
    if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
        // As in libpq, a socket has no TLS, whatever sslmode is.
        config.ssl_mode(SslMode::Disable);
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
    config
}

/// Returns the reason for which the driver rejects a connection string, without the kind of the error, and without parts
/// of the string: they can be parts of a password.
fn reason(error: &tokio_postgres::Error) -> String {
    let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    if reason.contains("unknown option `service") {
        return "service files are not supported; write host, dbname and user".to_owned();
    }
    if reason.starts_with("unknown option") {
        return "unknown option; quote values that contain blanks, and write ?, & and % in a URL's password as %3F, %26 \
                and %25"
            .to_owned();
    }
    reason.split(": expected").next().unwrap_or_default().to_owned()
}

/// Waits for the response to a statement, up to a time limit.
///
/// # Errors
/// Returns [`Error::Timeout`] if there is no response in time, and the error of the statement.
pub async fn within<T>(
    limit: Duration,
    response: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, response).await {
        Ok(response) => Ok(response?),
        Err(_) => Err(Error::Timeout(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        PostgresServer::parse(url).unwrap().config
    }

    #[test]
    fn connection_string_overrides_defaults() {
        let config = config("postgres://a@h/d?connect_timeout=7&keepalives_idle=60&application_name=mine");
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(60));
        assert_eq!(config.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
        let server = PostgresServer::parse("postgres://a@h/d?application_name=mine").unwrap();
        assert_eq!(server.with_application_name("other").config.get_application_name(), Some("mine"));
    }

    #[test]
    fn address_serves_as_name_and_socket_has_no_tls() {
        assert_eq!(config("hostaddr=127.0.0.1 dbname=d").get_hosts(), [Host::Tcp("127.0.0.1".to_owned())]);
        let server = PostgresServer::parse("host=a hostaddr=127.0.0.1 dbname=d").unwrap();
        assert_eq!(server.to_string(), "a, database d");
        assert_eq!(config("host=/tmp sslmode=require").get_ssl_mode(), SslMode::Disable);
    }

    #[test]
    fn several_hosts_mean_the_primary_unless_reading() {
        assert_eq!(config("postgres://a,b/d").get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        let to_read_from =
            |url: &str| PostgresServer::parse(url).unwrap().to_read_from().config.get_target_session_attrs();
        assert_eq!(to_read_from("postgres://a,b/d"), TargetSessionAttrs::Any);
        assert_eq!(to_read_from("postgres://a,b/d?target_session_attrs=read-only"), TargetSessionAttrs::ReadOnly);
    }

    #[test]
    fn invalid_connection_string_is_rejected() {
        let no_file = "postgres://h/d?sslmode=verify-full&sslrootcert=/no/such.pem";
        for url in ["", "postgres://h:port/d", "localhost", "postgres://h/d?sslmode=maybe", no_file] {
            let error = PostgresServer::parse(url).unwrap_err().to_string();
            assert!(error.contains("expected postgres://"), "{error}");
        }
    }

    #[test]
    fn parsing_shows_no_part_of_a_password() {
        for url in [
            "host=h user=u password=horse staple dbname=d",
            "host=h user=u password=horse staple=battery dbname=d",
            "host=h user=u password=horse staple",
            "postgres://u:horse?staple=x@h/d",
            "postgres://u:horse?a&staple@h/d",
            "postgres://u:horse@staple@h/d",
            "postgres://u:horse@h/d?staple=1",
        ] {
            let shown = match PostgresServer::parse(url) {
                Ok(server) => format!("{server:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("staple") && !shown.contains("horse"), "{url}: {shown}");
        }
    }
}
