//! Every client through PgBouncer: in session and in transaction mode, and with `options` rejected or dropped in silence.
//!
//! After each client's work, the sessions of the pooler are as they were: others get them next.

mod leases;
mod library;
mod server;
mod work;

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_tests::*;
use postgres::{Client, NoTls, SimpleQueryMessage};
use std::future::Future;
use xtask::stack::pooler::{Pooler, Settings};

/// Defaults of the database on which nothing may depend. Waits take longer than this time limit.
const DEFAULTS: [&str; 3] =
    ["statement_timeout = '900ms'", "lock_timeout = '7s'", "default_transaction_isolation = 'repeatable read'"];

/// What a session of the pooler has kept. The settings that PgBouncer sets for each client do not count.
const LEFT: &str = "
    SELECT pg_catalog.format('%s = %s', name, setting) FROM pg_catalog.pg_settings
    WHERE source = 'session' AND name NOT LIKE 'transaction\\_%' AND lower(name) NOT IN
        ('application_name', 'client_encoding', 'datestyle', 'intervalstyle', 'standard_conforming_strings', 'timezone')
    UNION ALL SELECT 'statement ' || statement FROM pg_catalog.pg_prepared_statements WHERE name NOT LIKE 'PGBOUNCER\\_%'
    UNION ALL SELECT 'LISTEN ' || pg_catalog.pg_listening_channels()
    UNION ALL SELECT 'advisory lock' FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()
    UNION ALL SELECT 'cursor ' || name FROM pg_catalog.pg_cursors WHERE is_holdable
    UNION ALL SELECT 'temporary ' || relname FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()";

/// A database behind a pooler.
struct Pooled {
    db: Db,
    pooler: Pooler,
    settings: Settings,
}

impl Pooled {
    /// None if PgBouncer is not installed.
    fn start(mode: &'static str, connections: u32, ignores_options: bool) -> Option<Pooled> {
        Pooled::before(Db::new(), Settings { mode, connections, ignores_options })
    }

    fn before(db: Db, settings: Settings) -> Option<Pooled> {
        let (port, name) = db.address();
        for default in DEFAULTS {
            db.connect().batch_execute(&format!("ALTER DATABASE {name} SET {default}")).unwrap();
        }
        let pooler = Pooler::start_before(port, settings).expect("a pooler");
        if pooler.is_none() {
            eprintln!("skipped: PgBouncer is not installed");
        }
        Some(Pooled { db, pooler: pooler?, settings })
    }

    fn url(&self) -> String {
        self.pooler.url(self.db.address().1)
    }

    fn server(&self) -> PostgresServer {
        PostgresServer::parse(&self.url()).expect("a connection string")
    }

    /// Takes back a default of the database, for sessions that begin from now on.
    fn reset(&self, setting: &str) {
        let (_, name) = self.db.address();
        self.connect().batch_execute(&format!("ALTER DATABASE {name} RESET {setting}")).unwrap();
    }

    /// Connects directly, without the defaults of the database.
    fn connect(&self) -> Client {
        let mut client = self.db.connect();
        client
            .batch_execute("SET statement_timeout = 0; SET default_transaction_isolation = 'read committed'")
            .unwrap();
        client
    }

    fn connect_pooled(&self) -> Client {
        Client::connect(&self.url(), NoTls).expect("a connection")
    }

    /// Returns what the sessions of the pooler have kept.
    fn left(&self) -> Vec<String> {
        let held = (0..self.settings.connections).map(|_| {
            let mut client = self.connect_pooled();
            client.batch_execute("BEGIN").expect("a session");
            client
        });
        let held: Vec<Client> = held.collect();
        let left = |mut client: Client| client.simple_query(LEFT).expect("an answer");
        let text = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        held.into_iter().flat_map(left).filter_map(text).collect()
    }
}

/// Runs a client through each kind of pooler. In transaction mode it shares few sessions.
fn through_each_pooler(work: impl Fn(&Pooled)) {
    for (mode, connections) in [("transaction", 3), ("session", 12)] {
        for ignores_options in [false, true] {
            let Some(pooled) = Pooled::start(mode, connections, ignores_options) else { return };
            eprintln!("{:?}", pooled.settings);
            work(&pooled);
            assert_eq!(pooled.left(), [""; 0]);
            pooled.reset("ALL");
        }
    }
}

/// Runs a future to its end. The harness's clients block, so a test must use them outside of the future.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(future)
}
