//! The web UI in a real browser: content, live updates, keyboard, phone, and speed.
//!
//! Its screenshots are left in `target/page/`.

mod apply;
mod browser;
mod data;
mod deletion;
mod graph;
mod grid;
mod headers;
mod keyboard;
mod layout;
mod queues;
mod recovery;
mod speed;

use browser::Browser;
use data::create_grid;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use std::sync::{Mutex, MutexGuard, PoisonError};
use uuid::Uuid;
use xtask::stack::port;
use xtask::stack::redis::Redis;
use xtask::stack::server::Server;

const RUNS: usize = 25;

const TASKS: usize = 80;

/// The states of all cells by task id.
const STATES: &str = "Object.fromEntries([...document.querySelectorAll('.cell')].map(cell => [cell.href.split('/').at(-1), cell.dataset.state]))";

/// A DAG with [`RUNS`] runs of [`TASKS`] tasks, a server, and a browser that shows it.
struct Stage {
    browser: Browser,
    server: Option<Server>,
    redis: Redis,
    db: Db,
    port: u16,
    dag: Uuid,
    /// One browser at a time: several would slow each other down.
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// Returns `None`, with a message, if no browser is installed.
    fn new() -> Option<Stage> {
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let browser = Browser::start()?;
        let (db, redis) = (Db::new(), Redis::start("page").unwrap());
        let dag = create_grid(&mut db.connect());
        let start = |port| Ok((start_server(db.url(), &redis, port, &[])?, port));
        let (server, port) = port::retrying(start).unwrap();
        let mut stage = Stage { browser, server: Some(server), redis, db, port, dag, _alone: alone };
        stage.browser.resize(1280, 860);
        Some(stage)
    }

    fn open(&mut self, hash: &str) {
        self.browser.open(&format!("http://127.0.0.1:{}/{hash}", self.port));
    }

    fn open_grid(&mut self) {
        self.open(&format!("#/dags/{}", self.dag));
        self.browser.wait(&format!("document.querySelectorAll('.cell').length === {}", RUNS * TASKS));
        self.wait_live();
    }

    fn restart(&mut self, flags: &[&str]) {
        drop(self.server.take());
        self.server = Some(start_server(self.db.url(), &self.redis, self.port, flags).unwrap());
    }

    fn wait_live(&mut self) {
        self.browser.wait("document.querySelector('#live')?.textContent === 'live'");
    }

    /// Waits until all cells show the states of the database.
    fn wait_true(&mut self) {
        let states = states_of(&mut self.db.connect());
        wait_until("the page shows the states of the database", || self.browser.evaluate(STATES) == states);
    }

    fn task(&self, name: &str) -> Uuid {
        let sql = "SELECT t.id FROM workflow.task_instances AS t JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id \
                   WHERE t.task_id = $1 ORDER BY r.execution_date DESC LIMIT 1";
        self.db.connect().query_one(sql, &[&name]).unwrap().get(0)
    }

    fn wait_state(&mut self, task: Uuid, state: &str) {
        self.browser.wait(&format!("document.querySelector('.cell[href$=\"{task}\"]')?.dataset.state === '{state}'"));
    }

    fn assert_no_complaints(&mut self) {
        assert_eq!(self.browser.complaints(), [""; 0], "errors of the page, or violations of its security policy");
    }
}

fn start_server(database: &str, redis: &Redis, port: u16, flags: &[&str]) -> anyhow::Result<Server> {
    let listen = format!("127.0.0.1:{port}");
    let envs = [("DATABASE_URL", database), ("REDIS_URL", &redis.url()), ("WORKFLOW_LISTEN", &listen)];
    let server = Server::start("page", &server_binary(), &[&["serve"], flags].concat(), &envs)?;
    server.wait_line("listening on", PATIENCE)?;
    Ok(server)
}

fn states_of(client: &mut Client) -> Value {
    let rows = client.query("SELECT id, state FROM workflow.task_instances", &[]).unwrap();
    rows.iter().map(|row| (row.get::<_, Uuid>(0).to_string(), json!(row.get::<_, String>(1)))).collect()
}
