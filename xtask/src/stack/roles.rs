//! Login roles of a stack.

use anyhow::Result;

use super::PostgresConfig;

/// Your programs: a member of `workflow_writer` that may create tables of its own.
pub const SCHEDULER: &str = "scheduler";

/// `workflow-server serve`: a member of `workflow_writer` that may also create partitions.
pub const SERVER: &str = "server";

/// A person who deletes and purges: a member of `workflow_admin`.
pub const ADMIN: &str = "admin";

/// Creates the roles if the cluster does not have them, and grants rights in a database with the extension.
pub const SQL: &str = include_str!("roles.sql");

/// Runs [`SQL`] in a database.
pub fn create(postgres: &PostgresConfig, database: &str) -> Result<()> {
    postgres.psql(database, SQL).map(drop)
}
