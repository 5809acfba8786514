//! Writers whose database can lose transitions: they read the states again with each connection.
//!
//! Each transition bears a token in its metadata, because a later timeline uses ids and versions again.

use anyhow::{Context, Result};
use fastrand::Rng;
use pg_workflow_state_machine::State;
use postgres::{Client, GenericClient};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::evidence::{Confirmed, Mark};
use super::reader::connect;
use super::world::now;
use crate::chaos::session::{Verdict, verdict};
use crate::chaos::writers::Load;
use crate::table;

/// The entities that a writer moves; it forgets the oldest ones.
const OWN: std::ops::Range<usize> = 12..40;
/// The transitions of a long transaction: with old ids, some of them in several small batches.
const LONG: usize = 12;

/// The record of the writers.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub confirmed: Vec<Confirmed>,
    /// Tokens of transitions that the writers undid themselves.
    pub undone: Vec<i64>,
    /// Errors that a writer must never get.
    pub complaints: Vec<String>,
    /// Statements and commits without a response.
    pub unanswered: usize,
}

/// Running writers, each in its own thread.
#[derive(Debug)]
pub struct Writers {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Written>>>,
}

impl Writers {
    pub fn start(url: &str, seed: u64, load: Load) -> Result<Writers> {
        let done = Arc::new(AtomicBool::new(false));
        let pace = Duration::from_secs(load.writers) / load.rate;
        let start = |number: u64| {
            let writer = Writer::new(url, number, seed)?;
            let done = done.clone();
            Ok(std::thread::spawn(move || writer.write(pace, &done)))
        };
        let threads = (0..load.writers).map(start).collect::<Result<_>>()?;
        Ok(Writers { done, threads })
    }

    pub fn finish(self) -> Result<Written> {
        self.done.store(true, Ordering::Release);
        let mut all = Written::default();
        for thread in self.threads {
            let one = thread.join().ok().context("a writer panicked")??;
            all.confirmed.extend(one.confirmed);
            all.undone.extend(one.undone);
            all.complaints.extend(one.complaints);
            all.unanswered += one.unanswered;
        }
        Ok(all)
    }
}

#[derive(Debug, Clone, Copy)]
struct Entity {
    kind: &'static str,
    id: Uuid,
    state: State,
    version: i64,
}

struct Writer {
    url: String,
    number: u64,
    random: Rng,
    dag: Uuid,
    own: Vec<Entity>,
    last_token: i64,
    written: Written,
}

impl Writer {
    fn new(url: &str, number: u64, seed: u64) -> Result<Writer> {
        let random = Rng::with_seed(seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut client = connect(url, "lossy setup")?;
        let dag = client.query_one("SELECT workflow.create_dag($1)", &[&Uuid::new_v4().to_string()])?.get(0);
        let last_token = number.cast_signed() * 1_000_000_000;
        Ok(Writer {
            url: url.to_owned(),
            number,
            random,
            dag,
            own: Vec::new(),
            last_token,
            written: Written::default(),
        })
    }

    fn write(mut self, pace: Duration, done: &AtomicBool) -> Result<Written> {
        let mut session = None;
        let mut due = Instant::now();
        while !done.load(Ordering::Acquire) {
            match self.step(&mut session) {
                Ok(made) => due = (due + pace * made).max(Instant::now()),
                Err(error) => {
                    session = None;
                    self.judge(&error);
                    due = Instant::now() + Duration::from_millis(50);
                }
            }
            sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(self.written)
    }

    fn judge(&mut self, error: &anyhow::Error) {
        match verdict(error) {
            Some(Verdict::Unknown) => self.written.unanswered += 1,
            _ => self.written.complaints.push(format!("writer {}: {error:?}", self.number)),
        }
    }

    /// Makes one change, and returns its number of transitions.
    fn step(&mut self, session: &mut Option<Client>) -> Result<u32> {
        let client = match session {
            Some(client) => client,
            None => {
                let client = session.insert(connect(&self.url, &format!("lossy writer {}", self.number))?);
                self.read_states(client)?;
                client
            }
        };
        let action = self.random.u32(0..100);
        match action {
            _ if self.own.len() < OWN.start => self.create(client),
            0..4 => self.create(client),
            4..50 => self.transition(client),
            50..65 => self.transition_many(client),
            65..90 => self.transact(client, 4, true, Duration::ZERO),
            90..97 => self.transact(client, 4, false, Duration::ZERO),
            _ => {
                let open = Duration::from_millis(self.random.u64(500..2500));
                self.transact(client, LONG, true, open)
            }
        }
    }

    /// Learns which entities this database has, and their states.
    fn read_states(&mut self, client: &mut Client) -> Result<()> {
        let ids: Vec<Uuid> = self.own.iter().map(|own| own.id).collect();
        self.own.clear();
        for kind in ["dag_run", "task_instance"] {
            // With the lock: a commit of a broken connection may still be in progress.
            let sql = format!("SELECT id, state, version FROM {} WHERE id = ANY ($1) FOR UPDATE", table(kind));
            for row in client.query(&sql, &[&ids])? {
                let state = row.get::<_, String>(1).parse()?;
                self.own.push(Entity { kind, id: row.get(0), state, version: row.get(2) });
            }
        }
        // By id, so that the seed determines the choices.
        self.own.sort_by_key(|own| own.id);
        Ok(())
    }

    /// Creates a run with tasks.
    fn create(&mut self, client: &mut Client) -> Result<u32> {
        let names: Vec<String> = (0..self.random.u32(4..10)).map(|number| format!("task_{number}")).collect();
        let sent = now();
        let mut transaction = client.transaction()?;
        let run: Uuid = transaction.query_one("SELECT workflow.create_dag_run($1)", &[&self.dag])?.get(0);
        let rows = transaction.query("SELECT id FROM workflow.create_task_instances($1, $2)", &[&run, &names])?;
        transaction.commit()?;
        let tasks = rows.iter().map(|row| ("task_instance", row.get(0)));
        for (kind, id) in std::iter::once(("dag_run", run)).chain(tasks) {
            self.own.push(Entity { kind, id, state: State::Queued, version: 1 });
            self.confirm(Mark { entity: id, version: 1, token: 0 }, sent);
        }
        self.own.drain(..self.own.len().saturating_sub(OWN.end));
        Ok(names.len() as u32 + 1)
    }

    fn transition(&mut self, client: &mut Client) -> Result<u32> {
        let index = self.random.usize(0..self.own.len());
        let (sent, moved) = (now(), self.call(client, index)?);
        self.acknowledge(index, moved, sent);
        Ok(1)
    }

    /// Moves several tasks in one statement, under one token.
    fn transition_many(&mut self, client: &mut Client) -> Result<u32> {
        let tasks: Vec<Uuid> = self.own.iter().filter(|own| own.kind == "task_instance").map(|own| own.id).collect();
        let ids = self.random.choose_multiple(tasks, 4);
        let to = [State::Running, State::Failed, State::Retrying][self.random.usize(0..3)];
        let (sent, token) = (now(), self.token());
        let sql = "SELECT entity_id, version FROM workflow.transition_many('task_instance', $1, null, $2, $3)
                   WHERE outcome = 'applied'";
        let rows = client.query(sql, &[&ids, &to.as_str(), &json!({ "token": token })])?;
        for row in &rows {
            let (id, version): (Uuid, i64) = (row.get(0), row.get(1));
            let index = self.own.iter().position(|own| own.id == id).context("an own task")?;
            self.acknowledge(index, Moved { to, version, token }, sent);
        }
        Ok(rows.len() as u32)
    }

    /// Makes several transitions in one transaction, the first in a savepoint that is rolled back.
    fn transact(&mut self, client: &mut Client, count: usize, commit: bool, open: Duration) -> Result<u32> {
        let chosen = self.random.choose_multiple(0..self.own.len(), count);
        let sent = now();
        let mut transaction = client.transaction()?;
        let mut moved = Vec::new();
        let mut savepoint = transaction.transaction()?;
        let undone = self.call(&mut savepoint, chosen[0])?.token;
        savepoint.rollback()?;
        self.written.undone.push(undone);
        for &index in &chosen[1..] {
            moved.push((index, self.call(&mut transaction, index)?));
        }
        sleep(open);
        if !commit {
            transaction.rollback()?;
            self.written.undone.extend(moved.iter().map(|(_, moved)| moved.token));
            return Ok(0);
        }
        transaction.commit()?;
        let made = moved.len() as u32;
        moved.into_iter().for_each(|(index, moved)| self.acknowledge(index, moved, sent));
        Ok(made)
    }

    /// Calls transition() for an own entity.
    fn call(&mut self, client: &mut impl GenericClient, index: usize) -> Result<Moved> {
        let entity = self.own[index];
        let (to, token) = (self.next_state(entity.state), self.token());
        let sql = "SELECT workflow.transition($1, $2, $3, $4, $5, $6)";
        let (from, metadata) = (entity.state.as_str(), json!({ "token": token }));
        let row =
            client.query_one(sql, &[&entity.kind, &entity.id, &from, &to.as_str(), &metadata, &entity.version])?;
        Ok(Moved { to, version: row.get(0), token })
    }

    fn acknowledge(&mut self, index: usize, Moved { to, version, token }: Moved, sent: i64) {
        let entity = &mut self.own[index];
        (entity.state, entity.version) = (to, version);
        let mark = Mark { entity: entity.id, version, token };
        self.confirm(mark, sent);
    }

    fn confirm(&mut self, mark: Mark, sent: i64) {
        self.written.confirmed.push(Confirmed { mark, sent, at: now() });
    }

    fn token(&mut self) -> i64 {
        self.last_token += 1;
        self.last_token
    }

    /// Draws an allowed next state that is not terminal.
    fn next_state(&mut self, state: State) -> State {
        let lasting: Vec<State> = state.next_states().iter().copied().filter(|next| !next.is_terminal()).collect();
        lasting[self.random.usize(0..lasting.len())]
    }
}

/// A transition that may not have been committed yet.
struct Moved {
    to: State,
    version: i64,
    token: i64,
}
