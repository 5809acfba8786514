//! PostgreSQL clusters of a test's own.

use crate::Db;
use crate::path::path_settings;
use xtask::stack::postgres::{FAST, Postgres};

/// Starts a cluster with these settings, which the test can stop and kill, and creates a database with the extension.
pub fn own_cluster(name: &str, settings: &[(&str, &str)]) -> (Postgres, Db) {
    let cluster = Postgres::start(name, &[FAST, path_settings(), settings].concat()).expect("a cluster");
    cluster.psql("postgres", "CREATE DATABASE workflow").expect("a database");
    cluster.psql("workflow", "CREATE EXTENSION pg_workflow").expect("the extension");
    let db = Db::at(cluster.url("workflow"));
    (cluster, db)
}
