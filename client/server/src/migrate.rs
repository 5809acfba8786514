//! Installing the extension in a database and bringing it to another version, by its own scripts.

use std::cmp::Ordering;
use std::fmt;

use pg_workflow_client::tokio_postgres::Client;
use serde::Serialize;

/// Taken while a migration decides and works, so that programs that all migrate at their start do it one by one.
const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pg_workflow migrate'))";

/// What is installed, and what could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// Of the extension's objects in this database; none where it is not installed.
    pub installed: Option<String>,
    /// Of the library that the server has loaded; none where the extension is not installed.
    pub library: Option<String>,
    /// What `CREATE EXTENSION` installs.
    pub default: String,
    /// What there are scripts for, the oldest first.
    pub available: Vec<String>,
}

/// Where to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The default version of the files that the server has.
    Newest,
    /// The version before the one installed.
    Previous,
    /// This version.
    Version(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is at this version already.
    Nothing(String),
    /// Install this version.
    Install(String),
    /// Run these scripts, in this order.
    Update {
        /// The version it has.
        from: String,
        /// All versions on the way, from the first to the last.
        path: Vec<String>,
    },
}

/// Why the extension cannot be brought there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server has no files of the extension.
    #[error("this PostgreSQL has no files of the extension pg_workflow")]
    NoFiles,
    /// There is nothing to update.
    #[error("pg_workflow is not installed in this database")]
    NotInstalled,
    /// There are no scripts for this version.
    #[error("there is no version {version} of pg_workflow here; there are: {}", available.join(", "))]
    NoVersion {
        /// The version wanted.
        version: String,
        /// Those that there are.
        available: Vec<String>,
    },
    /// There is nothing older.
    #[error("{0} is the oldest version of pg_workflow here")]
    Oldest(String),
    /// No scripts lead there.
    #[error("no scripts lead from pg_workflow {from} to {to}")]
    NoPath {
        /// The version installed.
        from: String,
        /// The version wanted.
        to: String,
    },
    /// PostgreSQL refused.
    #[error(transparent)]
    Database(#[from] pg_workflow_client::Error),
}

impl From<pg_workflow_client::tokio_postgres::Error> for Error {
    fn from(error: pg_workflow_client::tokio_postgres::Error) -> Error {
        Error::Database(error.into())
    }
}

impl Error {
    /// What an operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::NoFiles => "Install them on the server: pg_workflow.control, pg_workflow--*.sql and the library",
            Error::NotInstalled => "Install it first: workflow-server migrate up",
            Error::NoVersion { .. } => "Install the files of that version on the server, or name another",
            Error::Oldest(_) => "DROP EXTENSION pg_workflow CASCADE would remove it, with all its data",
            Error::NoPath { .. } => "Install the files of a version between them on the server, or restore a backup",
            Error::Database(pg_workflow_client::Error::Denied { .. }) => {
                "Do it as a superuser: the extension brings a library that the server loads"
            }
            Error::Database(error) => error.hint(),
        }
    }
}

/// Reads what is installed, and what could be.
///
/// # Errors
/// [`Error::NoFiles`] or [`Error::Database`].
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

/// What [`migrate`] would do.
///
/// # Errors
/// As [`migrate`].
pub async fn plan(client: &Client, target: &Target) -> Result<Step, Error> {
    let versions = versions(client).await?;
    let goal = goal(&versions, target)?;
    match versions.installed {
        None => Ok(Step::Install(goal)),
        Some(installed) if installed == goal => Ok(Step::Nothing(goal)),
        Some(from) => {
            let sql = "SELECT pg_catalog.string_to_array(path, '--')
                       FROM pg_catalog.pg_extension_update_paths('pg_workflow')
                       WHERE source = $1 AND target = $2";
            let rows = client.query(sql, &[&from, &goal]).await?;
            let path = rows.first().map(|row| row.try_get::<_, Option<Vec<String>>>(0)).transpose()?.flatten();
            match path {
                Some(path) => Ok(Step::Update { from, path }),
                None => Err(Error::NoPath { from, to: goal }),
            }
        }
    }
}

/// Installs the extension, or brings it to another version, in one transaction; returns what was done.
///
/// # Errors
/// See [`Error`]. Nothing has changed then.
///
/// ```no_run
/// use pg_workflow_client::connect::PostgresServer;
/// use pg_workflow_server::migrate;
///
/// # async fn example() -> Result<(), migrate::Error> {
/// let mut client = PostgresServer::parse("postgres://postgres@db.example/workflow")?.connect().await?;
/// migrate::migrate(&mut client, &migrate::Target::Newest).await?;
/// # Ok(())
/// # }
/// ```
pub async fn migrate(client: &mut Client, target: &Target) -> Result<Step, Error> {
    // READ COMMITTED: what others did while this waited for the lock is seen.
    let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0; {LOCK}");
    client.batch_execute(&begin).await?;
    let done = make(client, target).await;
    client.batch_execute(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    done
}

async fn make(client: &Client, target: &Target) -> Result<Step, Error> {
    let step = plan(client, target).await?;
    if let Some(sql) = step.sql() {
        client.batch_execute(&sql).await?;
    }
    Ok(step)
}

impl Step {
    /// The statement that does it; none where nothing is to be done.
    pub fn sql(&self) -> Option<String> {
        match self {
            Step::Nothing(_) => None,
            Step::Install(version) => Some(format!("CREATE EXTENSION pg_workflow VERSION {}", literal(version))),
            Step::Update { path, .. } => {
                path.last().map(|to| format!("ALTER EXTENSION pg_workflow UPDATE TO {}", literal(to)))
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Nothing(version) => write!(f, "pg_workflow is at {version} already"),
            Step::Install(version) => write!(f, "install pg_workflow {version}"),
            Step::Update { path, .. } => write!(f, "update pg_workflow {}", path.join(" → ")),
        }
    }
}

fn goal(versions: &Versions, target: &Target) -> Result<String, Error> {
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

/// By the numbers between the dots: 0.10.0 is newer than 0.9.0.
fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |version: &str| -> Vec<u64> { version.split('.').map(|part| part.parse().unwrap_or(0)).collect() };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

fn literal(text: &str) -> String {
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
        assert_eq!(goal(&versions(Some("0.10.0")), &Target::Previous).unwrap(), "0.9.0");
        assert_eq!(goal(&versions(Some("0.9.0")), &Target::Previous).unwrap(), "0.1.0");
        assert!(matches!(goal(&versions(Some("0.1.0")), &Target::Previous), Err(Error::Oldest(_))));
        assert!(matches!(goal(&versions(None), &Target::Previous), Err(Error::NotInstalled)));
    }

    #[test]
    fn only_a_version_that_exists_is_a_goal() {
        assert_eq!(goal(&versions(None), &Target::Newest).unwrap(), "0.10.0");
        assert_eq!(goal(&versions(None), &Target::Version("0.1.0".to_owned())).unwrap(), "0.1.0");
        let missing = goal(&versions(None), &Target::Version("1.0.0".to_owned()));
        assert_eq!(
            missing.unwrap_err().to_string(),
            "there is no version 1.0.0 of pg_workflow here; there are: 0.1.0, 0.9.0, 0.10.0"
        );
    }
}
