//! Installs and updates the extension in a database, with the scripts of the extension.

use std::cmp::Ordering;
use std::fmt;
use std::time::{Duration, Instant};

use pg_workflow_client::connect::Client;
use pg_workflow_client::tokio_postgres::error::SqlState;
use pg_workflow_client::tokio_postgres::types::Type;
use serde::Serialize;

/// Held during a migration, so that programs that all migrate at startup do so one by one. Only superusers can take it: an
/// advisory lock could be held by anyone.
const LOCK: &str = "LOCK TABLE pg_catalog.pg_extension IN SHARE ROW EXCLUSIVE MODE";
/// Time to wait for a lock in one attempt: all writers of the table wait behind it.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Time between two attempts, in which those writers continue.
const PAUSE: Duration = Duration::from_millis(500);

/// The installed and the available versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// Installed version; `None` if the extension is not installed.
    pub installed: Option<String>,
    /// Version of the loaded library; `None` if the extension is not installed.
    pub library: Option<String>,
    /// Version that `CREATE EXTENSION` installs.
    pub default: String,
    /// Versions that the server has scripts for, oldest first.
    pub available: Vec<String>,
}

/// The target of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The default version of the files on the server.
    Newest,
    /// The version before the installed one.
    Previous,
    /// This version.
    Version(String),
}

/// The action of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// None: the database has this version.
    Nothing(String),
    /// Install this version.
    Install(String),
    /// Run these scripts, in this order.
    Update {
        /// Installed version.
        from: String,
        /// All versions from the installed one to the target.
        path: Vec<String>,
    },
}

/// The reason why a migration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server has no files of the extension.
    #[error("no files of the extension pg_workflow on this server")]
    NoFiles,
    /// The extension is not installed.
    #[error("pg_workflow is not installed in this database")]
    NotInstalled,
    /// The server has no scripts for this version.
    #[error("no version {version} of pg_workflow on this server; available: {}", available.join(", "))]
    NoVersion {
        /// Requested version.
        version: String,
        /// Available versions.
        available: Vec<String>,
    },
    /// No older version is available.
    #[error("{0} is the oldest version of pg_workflow on this server")]
    Oldest(String),
    /// No scripts lead to the target.
    #[error("no scripts lead from pg_workflow {from} to {to}")]
    NoPath {
        /// Installed version.
        from: String,
        /// Requested version.
        to: String,
    },
    /// Other sessions hold locks on the extension's tables.
    #[error("no lock within {} s, held by {}", waited.as_secs(), describe(holders))]
    Locked {
        /// How long the migration has waited.
        waited: Duration,
        /// The sessions that hold locks, the oldest transaction first.
        holders: Vec<Holder>,
    },
    /// The database returned an error.
    #[error(transparent)]
    Database(#[from] pg_workflow_client::Error),
}

/// A session that holds locks on the extension's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: i32,
    /// Its role.
    pub role: String,
    /// Its `application_name`.
    pub application: String,
    /// Age of its transaction in seconds.
    pub seconds: i64,
}

fn describe(holders: &[Holder]) -> String {
    let describe = |Holder { pid, role, application, seconds }: &Holder| {
        format!("process {pid} (role {role}, application \"{application}\", in a transaction for {seconds} s)")
    };
    match holders {
        [] => "a transaction that has ended meanwhile".to_owned(),
        holders => holders.iter().map(describe).collect::<Vec<_>>().join(", "),
    }
}

impl From<pg_workflow_client::tokio_postgres::Error> for Error {
    fn from(error: pg_workflow_client::tokio_postgres::Error) -> Error {
        Error::Database(error.into())
    }
}

impl Error {
    /// Returns a hint for the operator.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::NoFiles => "Install pg_workflow.control, pg_workflow--*.sql and the library on the server",
            Error::NotInstalled => "Install it first: workflow-server migrate up",
            Error::NoVersion { .. } => "Install the files of that version on the server, or name another version",
            Error::Oldest(_) => "To remove it with all its data: DROP EXTENSION pg_workflow CASCADE",
            Error::Locked { .. } => {
                "Wait until that transaction ends, or end it with pg_terminate_backend(), and repeat"
            }
            Error::NoPath { .. } => "Install the files of a version between them on the server, or restore a backup",
            Error::Database(pg_workflow_client::Error::Denied { .. }) => {
                "Connect as a superuser: the extension has a library that the server loads"
            }
            Error::Database(error) => error.hint(),
        }
    }
}

/// Reads the installed and the available versions.
///
/// # Errors
/// Returns [`Error::NoFiles`] or [`Error::Database`].
///
/// ```no_run
/// use pg_workflow_client::connect::PostgresServer;
/// use pg_workflow_server::migrate;
///
/// # async fn example() -> Result<(), migrate::Error> {
/// let client = PostgresServer::parse("postgres://postgres@db.example/workflow")?.connect().await?;
/// println!("{:?}", migrate::versions(&client).await?.installed);
/// # Ok(())
/// # }
/// ```
pub async fn versions(client: &Client) -> Result<Versions, Error> {
    let sql = "SELECT e.installed_version, e.default_version, v.versions
               FROM pg_catalog.pg_available_extensions AS e
               CROSS JOIN LATERAL (
                   SELECT pg_catalog.array_agg(a.version) AS versions
                   FROM pg_catalog.pg_available_extension_versions AS a
                   WHERE a.name = e.name
               ) AS v
               WHERE e.name = 'pg_workflow'";
    let rows = client.query_typed(sql, &[]).await?;
    let row = rows.first().ok_or(Error::NoFiles)?;
    let installed: Option<String> = row.try_get(0)?;
    let mut available: Vec<String> = row.try_get::<_, Option<Vec<String>>>(2)?.unwrap_or_default();
    available.sort_by(|a, b| compare(a, b));
    let library = match installed {
        Some(_) => Some(client.query_typed("SELECT workflow.version()", &[]).await?[0].try_get(0)?),
        None => None,
    };
    Ok(Versions { installed, library, default: row.try_get(1)?, available })
}

/// Returns the action of [`migrate`] without running it.
///
/// # Errors
/// Returns the errors of [`migrate`].
pub async fn plan(client: &Client, target: &Target) -> Result<Step, Error> {
    let versions = versions(client).await?;
    let to = resolve(&versions, target)?;
    match versions.installed {
        None => Ok(Step::Install(to)),
        Some(installed) if installed == to => Ok(Step::Nothing(to)),
        Some(from) => {
            let sql = "SELECT pg_catalog.string_to_array(path, '--')
                       FROM pg_catalog.pg_extension_update_paths('pg_workflow')
                       WHERE source = $1 AND target = $2";
            let rows = client.query_typed(sql, &[(&from, Type::TEXT), (&to, Type::TEXT)]).await?;
            let path = rows.first().map(|row| row.try_get::<_, Option<Vec<String>>>(0)).transpose()?.flatten();
            match path {
                Some(path) => Ok(Step::Update { from, path }),
                None => Err(Error::NoPath { from, to }),
            }
        }
    }
}

/// Installs the extension or changes its version, in one transaction; returns the action.
///
/// Waits for locks up to `wait`, in short attempts, between which other sessions continue.
///
/// # Errors
/// Returns an [`Error`]; nothing has changed then.
///
/// ```no_run
/// use pg_workflow_client::connect::PostgresServer;
/// use pg_workflow_server::migrate;
///
/// # async fn example() -> Result<(), migrate::Error> {
/// let mut client = PostgresServer::parse("postgres://postgres@db.example/workflow")?.connect().await?;
/// migrate::migrate(&mut client, &migrate::Target::Newest, std::time::Duration::from_secs(60)).await?;
/// # Ok(())
/// # }
/// ```
pub async fn migrate(client: &mut Client, target: &Target, wait: Duration) -> Result<Step, Error> {
    let began = Instant::now();
    loop {
        if let nothing @ Step::Nothing(_) = plan(client, target).await? {
            return Ok(nothing);
        }
        // READ COMMITTED: this sees migrations that finished while it waited for the lock.
        let timeout = ATTEMPT.as_millis();
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {timeout}"
        );
        client.batch_execute(&begin).await?;
        let done = run_step(client, target).await;
        client.batch_execute(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        match done {
            Err(Error::Database(error)) if is_in_the_way(&error) => {
                let (holders, waited) = (holders(client).await?, began.elapsed());
                if waited >= wait {
                    return Err(Error::Locked { waited, holders });
                }
                tracing::info!("waiting for locks, held by {}", describe(&holders));
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Returns whether another transaction was in the way.
fn is_in_the_way(error: &pg_workflow_client::Error) -> bool {
    [Some(&SqlState::LOCK_NOT_AVAILABLE), Some(&SqlState::T_R_DEADLOCK_DETECTED)].contains(&error.code())
}

/// Returns the sessions that hold locks which a migration waits for.
async fn holders(client: &Client) -> Result<Vec<Holder>, Error> {
    let sql = "SELECT a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, ''),
                   coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::bigint
               FROM pg_catalog.pg_stat_activity AS a
               WHERE a.pid <> pg_catalog.pg_backend_pid() AND EXISTS (
                   SELECT FROM pg_catalog.pg_locks AS l
                   JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
                   JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                   WHERE l.pid = a.pid AND l.granted
                   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                   AND (n.nspname = 'workflow'
                       OR c.oid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND l.mode <> 'AccessShareLock')
               )
               ORDER BY a.xact_start
               LIMIT 5";
    let holder = |row: &pg_workflow_client::tokio_postgres::Row| {
        Ok(Holder {
            pid: row.try_get(0)?,
            role: row.try_get(1)?,
            application: row.try_get(2)?,
            seconds: row.try_get(3)?,
        })
    };
    client.query_typed(sql, &[]).await?.iter().map(holder).collect()
}

async fn run_step(client: &Client, target: &Target) -> Result<Step, Error> {
    client.batch_execute(LOCK).await?;
    let step = plan(client, target).await?;
    if let Some(sql) = step.sql() {
        client.batch_execute(&sql).await?;
    }
    Ok(step)
}

impl Step {
    /// Returns its statement; `None` if nothing has to be done.
    pub fn sql(&self) -> Option<String> {
        match self {
            Step::Nothing(_) => None,
            Step::Install(version) => Some(format!("CREATE EXTENSION pg_workflow VERSION {}", quote_literal(version))),
            Step::Update { path, .. } => {
                path.last().map(|to| format!("ALTER EXTENSION pg_workflow UPDATE TO {}", quote_literal(to)))
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Nothing(version) => write!(f, "pg_workflow is already at {version}"),
            Step::Install(version) => write!(f, "install pg_workflow {version}"),
            Step::Update { path, .. } => write!(f, "update pg_workflow {}", path.join(" → ")),
        }
    }
}

fn resolve(versions: &Versions, target: &Target) -> Result<String, Error> {
    match target {
        Target::Newest => Ok(versions.default.clone()),
        Target::Version(version) if versions.available.contains(version) => Ok(version.clone()),
        Target::Version(version) => {
            Err(Error::NoVersion { version: version.clone(), available: versions.available.clone() })
        }
        Target::Previous => {
            let installed = versions.installed.as_ref().ok_or(Error::NotInstalled)?;
            let older = versions.available.iter().rfind(|version| compare(version, installed) == Ordering::Less);
            older.cloned().ok_or_else(|| Error::Oldest(installed.clone()))
        }
    }
}

/// Compares versions by number: 0.10.0 is newer than 0.9.0.
fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |version: &str| -> Vec<u64> { version.split('.').map(|part| part.parse().unwrap_or(0)).collect() };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(installed: Option<&str>) -> Versions {
        Versions {
            installed: installed.map(str::to_owned),
            library: None,
            default: "0.10.0".to_owned(),
            available: ["0.1.0", "0.9.0", "0.10.0"].map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(resolve(&versions(Some("0.10.0")), &Target::Previous).unwrap(), "0.9.0");
        assert_eq!(resolve(&versions(Some("0.9.0")), &Target::Previous).unwrap(), "0.1.0");
        assert!(matches!(resolve(&versions(Some("0.1.0")), &Target::Previous), Err(Error::Oldest(_))));
        assert!(matches!(resolve(&versions(None), &Target::Previous), Err(Error::NotInstalled)));
    }

    #[test]
    fn target_must_be_an_available_version() {
        assert_eq!(resolve(&versions(None), &Target::Newest).unwrap(), "0.10.0");
        assert_eq!(resolve(&versions(None), &Target::Version("0.1.0".to_owned())).unwrap(), "0.1.0");
        let missing = resolve(&versions(None), &Target::Version("1.0.0".to_owned()));
        assert_eq!(
            missing.unwrap_err().to_string(),
            "no version 1.0.0 of pg_workflow on this server; available: 0.1.0, 0.9.0, 0.10.0"
        );
    }
}
