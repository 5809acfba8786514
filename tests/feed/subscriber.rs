//! One handler, four sources: no event is lost and order is kept, through outages of every part.

mod channel;
mod consumer;
mod deletion;
mod follower;
mod group;

use pg_workflow_client::connect::PostgresServer;
use pg_workflow_client::event::Event;
use pg_workflow_client::redis_server::RedisServer;
use pg_workflow_client::subscriber::Subscriber as Source;
use pg_workflow_tests::chaos::proxy::Proxy;
use pg_workflow_tests::*;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::util::SubscriberInitExt;

const CHANNEL: &str = "workflow:events";

const STREAM: &str = "workflow:stream";

/// A subscriber in its own thread, whose handler fails in every fifth call.
struct Running {
    handled: Arc<Mutex<Vec<Event>>>,
    log: Log,
    positions: watch::Receiver<Option<String>>,
    shutdown: CancellationToken,
    thread: JoinHandle<()>,
}

impl Running {
    fn start(mut source: Source) -> Running {
        let handled = Arc::new(Mutex::new(Vec::new()));
        let (positions, shutdown, log) = (source.positions(), CancellationToken::new(), Log::default());
        let thread = std::thread::spawn({
            let (handled, shutdown, log) = (handled.clone(), shutdown.clone(), log.clone());
            move || {
                let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
                let _log = log.set_default();
                let calls = Mutex::new(0);
                let handler = move |event: Event| {
                    let mut calls = calls.lock().unwrap();
                    *calls += 1;
                    let fails = *calls % 5 == 0;
                    if !fails {
                        handled.lock().unwrap().push(event);
                    }
                    async move { if fails { Err("it fails now and then") } else { Ok(()) } }
                };
                // Spawned, so that this compiles only if the future is `Send`.
                let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(runtime.spawn(async move { source.run(handler, shutdown).await })).unwrap();
            }
        });
        Running { handled, log, positions, shutdown, thread }
    }

    fn handled(&self) -> Vec<Event> {
        self.handled.lock().unwrap().clone()
    }

    fn stop(self) -> Vec<Event> {
        self.shutdown.cancel();
        self.thread.join().unwrap();
        let handled = self.handled.lock().unwrap();
        handled.clone()
    }

    /// Waits until all events after this one have been handled, and checks the order of versions of each entity.
    fn assert_complete(&self, db: &Db, after: i64) {
        let sql = "SELECT id FROM workflow.state_history WHERE id > $1";
        let rows = db.connect().query(sql, &[&after]).unwrap();
        let written: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        wait_until("all events", || {
            let handled: HashSet<i64> = self.handled().iter().map(|event| event.id).collect();
            written.iter().all(|id| handled.contains(id))
        });
        assert_in_order(&self.handled());
    }

    /// Makes events until the subscriber handles one of them.
    fn wait_ready(&self, db: &Db) -> i64 {
        let client = &mut db.connect();
        wait_until("the subscriber", || {
            create_task(client);
            std::thread::sleep(Duration::from_millis(100));
            !self.handled().is_empty()
        });
        last_id(db)
    }
}

fn assert_in_order(events: &[Event]) {
    let mut versions = HashMap::new();
    for event in events {
        let last = versions.entry(event.entity_id).or_insert(event.version - 1);
        assert!(event.version <= *last + 1, "version {} came before {}", event.version, *last + 1);
        *last = event.version.max(*last);
    }
}

fn last_id(db: &Db) -> i64 {
    db.connect().query_one("SELECT coalesce(max(id), 0) FROM workflow.state_history", &[]).unwrap().get(0)
}

fn at(port: u16) -> PostgresServer {
    PostgresServer::parse(&format!("postgres://postgres@127.0.0.1:{port}/workflow")).unwrap()
}

fn redis_at(port: u16) -> RedisServer {
    RedisServer::parse(&format!("redis://127.0.0.1:{port}")).unwrap()
}

/// Two proxies to one server: if the first is blocked, the second still works.
fn two_ways(port: u16) -> [Proxy; 2] {
    [(); 2].map(|()| Proxy::start(port).unwrap())
}
