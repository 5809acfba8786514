//! PostgreSQL clusters: one that the tests share, and others of a test's own.

use crate::Db;
use std::sync::OnceLock;
use xtask::stack::postgres::{FAST, PRELOADED, Postgres};

/// The cluster that the tests share. Its database `fresh` is the template of the tests' databases.
pub fn shared_cluster() -> &'static Postgres {
    static CLUSTER: OnceLock<Postgres> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        // A notifier for each test that runs.
        let settings = [("max_connections", "300"), ("max_worker_processes", "50"), PRELOADED];
        let cluster = Postgres::start("tests", &[FAST, &settings].concat()).expect("a cluster");
        cluster.psql("postgres", "CREATE DATABASE fresh").expect("a template");
        cluster.psql("fresh", "CREATE EXTENSION pg_workflow").expect("the extension");
        // Stored counts let verify() compare them with the tables.
        cluster.psql("fresh", "SELECT workflow.fold_state_counts()").expect("stored counts");
        cluster
    })
}

/// Starts a cluster with these settings, which the test can stop and kill, and creates a database with the extension.
pub fn own_cluster(name: &str, settings: &[(&str, &str)]) -> (Postgres, Db) {
    let cluster = Postgres::start(name, &[FAST, settings].concat()).expect("a cluster");
    cluster.psql("postgres", "CREATE DATABASE workflow").expect("a database");
    cluster.psql("workflow", "CREATE EXTENSION pg_workflow").expect("the extension");
    let db = Db::at(cluster.url("workflow"));
    (cluster, db)
}
