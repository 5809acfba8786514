//! A database with the extension, for one test.

use crate::path::path_settings;
use postgres::{Client, NoTls};
use serde_json::Value;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use xtask::stack::postgres::{FAST, PRELOADED, Postgres};

/// A database with the extension. At the end of its scope, its history must agree with its rows.
pub struct Db {
    url: String,
    verified: bool,
    /// Its name if it is in the shared cluster: dropping it frees a background worker for the other notifiers.
    shared: Option<String>,
}

impl Db {
    /// Creates a database in the cluster that the tests share.
    pub fn new() -> Db {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        shared_cluster().psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE fresh")).expect("a new database");
        let url = shared_cluster().url(&name);
        Db { url, verified: true, shared: Some(name) }
    }

    /// Takes an existing database that has the extension.
    pub fn at(url: String) -> Db {
        Db { url, verified: true, shared: None }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same database for another role than the superuser.
    pub fn url_as(&self, role: &str) -> String {
        self.url.replacen("//postgres@", &format!("//{role}@"), 1)
    }

    /// The port and the name of the database.
    pub fn address(&self) -> (u16, &str) {
        let (port, name) =
            self.url.rsplit_once(':').and_then(|(_, end)| end.split_once('/')).expect("a port and a name");
        (port.parse().expect("a port"), name)
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.url, NoTls).expect("a connection")
    }

    /// Connects as another role than the superuser.
    pub fn connect_as(&self, role: &str) -> Client {
        let mut client = self.connect();
        client.batch_execute(&format!("SET SESSION AUTHORIZATION {role}")).expect("the role exists");
        client
    }

    /// Skips the check at the end, for tests that break history on purpose.
    pub fn without_verification(mut self) -> Db {
        self.verified = false;
        self
    }

    /// Returns the problems that `verify()` finds.
    pub fn problems(&self) -> Vec<String> {
        let rows = self.connect().query("SELECT problem, detail FROM workflow.verify()", &[]).expect("verify() runs");
        rows.iter().map(|row| format!("{}: {}", row.get::<_, String>(0), row.get::<_, Value>(1))).collect()
    }
}

/// A session, and the warnings that it gets.
pub fn connect_with_warnings(db: &Db) -> (Client, Arc<Mutex<Vec<String>>>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let of_session = warnings.clone();
    let mut config: postgres::Config = db.url().parse().unwrap();
    config.notice_callback(move |notice| {
        if notice.severity() == "WARNING" {
            of_session.lock().unwrap().push(notice.message().to_owned());
        }
    });
    (config.connect(NoTls).unwrap(), warnings)
}

/// Creates a login role that works as a writer, and has a schema to work in.
pub fn create_writer(owner: &mut Client) -> String {
    let role = format!("writer_{}", uuid::Uuid::new_v4().simple());
    let sql =
        format!("CREATE ROLE {role} LOGIN; GRANT workflow_writer TO {role}; GRANT ALL ON SCHEMA public TO {role}");
    owner.batch_execute(&sql).expect("a role");
    role
}

impl Default for Db {
    fn default() -> Db {
        Db::new()
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.verified && !std::thread::panicking() {
            assert_eq!(self.problems(), [""; 0], "history and rows disagree");
            self.connect().batch_execute("SELECT workflow.fold_state_counts()").expect("counts can be refreshed");
            assert_eq!(self.problems(), [""; 0], "the refreshed counts disagree");
        }
        if let Some(name) = self.shared.take().filter(|_| !std::thread::panicking()) {
            shared_cluster()
                .psql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"))
                .expect("the database can be dropped");
        }
    }
}

/// The cluster that the tests share. Its database `fresh` is the template of the tests' databases.
fn shared_cluster() -> &'static Postgres {
    static CLUSTER: OnceLock<Postgres> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        // A notifier for each test that runs.
        let settings = [("max_connections", "300"), ("max_worker_processes", "50"), PRELOADED];
        let cluster = Postgres::start("tests", &[FAST, path_settings(), &settings].concat()).expect("a cluster");
        cluster.psql("postgres", "CREATE DATABASE fresh").expect("a template");
        cluster.psql("fresh", "CREATE EXTENSION pg_workflow").expect("the extension");
        // Stored counts let verify() compare them with the tables.
        cluster.psql("fresh", "SELECT workflow.fold_state_counts()").expect("stored counts");
        cluster
    })
}
