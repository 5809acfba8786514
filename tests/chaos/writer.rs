//! One writer. Only it makes transitions of its own entities, so that it knows their state; it shares other entities.

mod nested;
mod prepared;

pub use nested::create_triggers;

use anyhow::Result;
use fastrand::Rng;
use pg_workflow_state_machine::State;
use postgres::{GenericClient, IsolationLevel};
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

use super::session::{Session, Stale, Verdict, verdict};
use super::writers::Written;
use crate::table;

/// A writer with fewer own entities creates some.
const ENOUGH: usize = 12;

/// An entity in the state that its writer knows.
#[derive(Debug, Clone, Copy)]
struct Entity {
    kind: &'static str,
    id: Uuid,
    state: State,
    version: i64,
}

/// See [`super::writers::Writers`].
pub struct Writer {
    name: String,
    session: Session,
    random: Rng,
    dag: Uuid,
    own: Vec<Entity>,
    shared: Arc<[Uuid]>,
    /// Whether the server has prepared transactions.
    prepares: bool,
    written: Written,
}

impl Writer {
    pub fn new(url: &str, number: u64, seed: u64, dag: Uuid, shared: Arc<[Uuid]>) -> Result<Writer> {
        let name = format!("chaos writer {number}");
        // Half of them write by the direct path, and half by SQL statements.
        let path = if number.is_multiple_of(2) { "on" } else { "off" };
        let session = Session::new(url, &name)?.with_setting("pg_workflow.direct_path", path);
        let random = Rng::with_seed(seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Ok(Writer { name, session, random, dag, own: Vec::new(), shared, prepares: false, written: Written::default() })
    }

    pub fn preparing(self, prepares: bool) -> Writer {
        Writer { prepares, ..self }
    }

    /// Makes one random change, and returns its number of transitions; fails if the database stays unavailable.
    pub fn step(&mut self) -> Result<u32> {
        let is_finished_task = |own: &&Entity| own.state.is_terminal() && own.kind == "task_instance";
        let finished = self.own.iter().find(is_finished_task).copied();
        self.own.retain(|entity| !entity.state.is_terminal());
        if let Some(task) = finished.filter(|_| self.random.bool()) {
            return self.try_step(|writer| writer.delete(task));
        }
        let action = self.random.u32(0..100);
        self.try_step(|writer| writer.act(action))
    }

    fn act(&mut self, action: u32) -> Result<u32> {
        match action {
            _ if self.own.len() < ENOUGH => self.create(),
            0..35 => self.transition_by_request(),
            47..50 if self.prepares => self.transition_prepared(),
            35..50 => self.transition_by_update(),
            50..60 => self.transition_shared(),
            60..70 => self.transition_many(),
            70..77 => self.transition_nested(),
            77..93 => self.transition_in_transaction(true),
            _ => self.transition_in_transaction(false),
        }
    }

    /// Makes a change, and judges its error.
    fn try_step(&mut self, change: impl FnOnce(&mut Writer) -> Result<u32>) -> Result<u32> {
        let error = match change(self) {
            Ok(transitions) => return Ok(transitions),
            Err(error) => error,
        };
        match verdict(&error) {
            Some(Verdict::Unknown) => {
                self.written.counts.unanswered += 1;
                self.resolve()?;
            }
            // An earlier statement on a broken connection may have been executed after `resolve`.
            Some(Verdict::Conflict) if self.resolve()? => (),
            Some(_) => self.complain(&format!("{error:?}")),
            None => return Err(error),
        }
        Ok(0)
    }

    /// Ends once the outcome of all statements is known.
    pub fn finish(mut self) -> Result<Written> {
        self.resolve()?;
        Ok(self.written)
    }

    /// Calls transition() with an idempotency key until there is a response.
    fn transition_by_request(&mut self) -> Result<u32> {
        let index = self.random.usize(0..self.own.len());
        let entity = self.own[index];
        let to = next_state(&mut self.random, entity.state);
        let metadata = metadata(&mut self.random);
        let request = format!("{:032x}", self.random.u128(..));
        let expected = self.random.bool().then_some(entity.version);
        let sql = "SELECT workflow.transition($1, $2, $3, $4, $5, $6, $7)";
        let answer = self.session.insist(|client| {
            let (from, to) = (entity.state.as_str(), to.as_str());
            client.query_one(sql, &[&entity.kind, &entity.id, &from, &to, &metadata, &expected, &request])
        })?;
        self.acknowledge(index, to, answer.get(0));
        Ok(1)
    }

    fn transition_by_update(&mut self) -> Result<u32> {
        let index = self.random.usize(0..self.own.len());
        let to = next_state(&mut self.random, self.own[index].state);
        let version = update(self.session.client()?, self.own[index], to)?;
        self.acknowledge(index, to, version);
        Ok(1)
    }

    /// Makes a transition of a task that the writers share.
    fn transition_shared(&mut self) -> Result<u32> {
        let task = self.random.choice(self.shared.iter()).copied().unwrap_or_default();
        let version = toggle(self.session.client()?, task)?;
        self.written.acknowledged.push((task, version));
        Ok(1)
    }

    fn transition_many(&mut self) -> Result<u32> {
        let to = [State::Running, State::Failed, State::Retrying][self.random.usize(0..3)];
        let mut ids: Vec<Uuid> = self.own.iter().filter(|own| own.kind == "task_instance").map(|own| own.id).collect();
        ids.push(self.shared[self.random.usize(0..self.shared.len())]);
        let sql = "SELECT entity_id, version FROM workflow.transition_many('task_instance', $1, null, $2)
                   WHERE outcome = 'applied'";
        let moved = self.session.client()?.query(sql, &[&ids, &to.as_str()])?;
        for row in &moved {
            let (id, version): (Uuid, i64) = (row.get(0), row.get(1));
            match self.own.iter().position(|own| own.id == id) {
                Some(index) => self.acknowledge(index, to, version),
                None => self.written.acknowledged.push((id, version)),
            }
        }
        Ok(moved.len() as u32)
    }

    /// Makes several transitions in a transaction of any isolation level.
    fn transition_in_transaction(&mut self, commit: bool) -> Result<u32> {
        use IsolationLevel::{ReadCommitted, RepeatableRead, Serializable};
        let levels = [ReadCommitted, ReadCommitted, RepeatableRead, Serializable];
        let level = levels[self.random.usize(0..levels.len())];
        match self.attempt_transaction(level, commit) {
            // Another writer has moved a shared task meanwhile.
            Err(error)
                if !matches!(level, ReadCommitted)
                    && verdict(&error) == Some(Verdict::Conflict)
                    && !error.is::<Stale>() =>
            {
                self.written.counts.conflicts += 1;
                Ok(0)
            }
            outcome => outcome,
        }
    }

    /// Makes transitions, with a savepoint that is rolled back; then commits or rolls back.
    fn attempt_transaction(&mut self, level: IsolationLevel, commit: bool) -> Result<u32> {
        let random = &mut self.random;
        let chosen = random.choose_multiple(0..self.own.len(), 4);
        let shared = self.shared[random.usize(0..self.shared.len())];
        let mut transaction = self.session.client()?.build_transaction().isolation_level(level).start()?;
        let mut moved = Vec::new();
        for (nth, &index) in chosen.iter().enumerate() {
            let (entity, to) = (self.own[index], next_state(random, self.own[index].state));
            if nth == 0 {
                let mut savepoint = transaction.transaction()?;
                update(&mut savepoint, entity, to)?;
                savepoint.rollback()?;
            } else {
                moved.push((index, to, update(&mut transaction, entity, to)?));
            }
        }
        let shared_version = random.bool().then(|| toggle(&mut transaction, shared)).transpose()?;
        if !commit {
            transaction.rollback()?;
            self.written.counts.rolled_back += 1;
            return Ok(0);
        }
        transaction.commit()?;
        self.written.acknowledged.extend(shared_version.map(|version| (shared, version)));
        let count = moved.len() as u32;
        moved.into_iter().for_each(|(index, to, version)| self.acknowledge(index, to, version));
        Ok(count)
    }

    /// Deletes a task, which the writer no longer owns: without a response, it may exist or not.
    fn delete(&mut self, task: Entity) -> Result<u32> {
        let sql = "DELETE FROM workflow.task_instances WHERE id = $1";
        if self.session.client()?.execute(sql, &[&task.id])? != 1 {
            self.complain(&format!("{} was gone before it was deleted", task.id));
        }
        self.written.acknowledged.push((task.id, task.version + 1));
        Ok(1)
    }

    /// Creates a run with tasks.
    fn create(&mut self) -> Result<u32> {
        let names: Vec<String> = (0..self.random.u32(5..15)).map(|number| format!("task_{number}")).collect();
        let mut transaction = self.session.client()?.transaction()?;
        let run: Uuid = transaction.query_one("SELECT workflow.create_dag_run($1)", &[&self.dag])?.get(0);
        let rows = transaction.query("SELECT id FROM workflow.create_task_instances($1, $2)", &[&run, &names])?;
        transaction.commit()?;
        let tasks = rows.iter().map(|row| ("task_instance", row.get(0)));
        for (kind, id) in std::iter::once(("dag_run", run)).chain(tasks) {
            self.own.push(Entity { kind, id, state: State::Queued, version: 1 });
            self.written.acknowledged.push((id, 1));
        }
        Ok(rows.len() as u32 + 1)
    }

    fn acknowledge(&mut self, index: usize, state: State, version: i64) {
        let entity = &mut self.own[index];
        let before = entity.version;
        (entity.state, entity.version) = (state, version);
        let id = entity.id;
        self.written.acknowledged.push((id, version));
        if version <= before {
            self.complain(&format!("{id} was at version {before}, and a transition returned {version}"));
        }
    }

    /// Looks for transitions that were made without a response; returns whether there were any.
    fn resolve(&mut self) -> Result<bool> {
        self.session.reset();
        let mut found = false;
        for kind in ["dag_run", "task_instance"] {
            let ids: Vec<Uuid> = self.own.iter().filter(|own| own.kind == kind).map(|own| own.id).collect();
            // With the lock: a commit of the broken connection may still be in progress.
            let sql = format!("SELECT id, state, version FROM {} WHERE id = ANY ($1) FOR UPDATE", table(kind));
            let rows = self.session.insist(|client| client.query(&sql, &[&ids]))?;
            if rows.len() != ids.len() {
                self.complain(&format!("of {} entities, {} exist", ids.len(), rows.len()));
            }
            for row in rows {
                found |= self.learn(row.get(0), row.get::<_, String>(1).parse()?, row.get(2));
            }
        }
        Ok(found)
    }

    /// Records the state of an own entity; returns whether it is new.
    fn learn(&mut self, id: Uuid, state: State, version: i64) -> bool {
        let Some(entity) = self.own.iter_mut().find(|own| own.id == id) else { return false };
        let before = entity.version;
        (entity.state, entity.version) = (state, version);
        self.written.acknowledged.extend((before + 1..=version).map(|version| (id, version)));
        if version < before {
            self.complain(&format!("{id} was at version {before}, and is at {version}"));
        }
        version > before
    }

    fn complain(&mut self, complaint: &str) {
        self.written.complaints.push(format!("{}: {complaint}", self.name));
    }
}

/// Runs a plain UPDATE as the only writer of an entity.
fn update(client: &mut impl GenericClient, entity: Entity, to: State) -> Result<i64> {
    let sql = format!("UPDATE {} SET state = $3 WHERE id = $1 AND version = $2 RETURNING version", table(entity.kind));
    let row = client.query_opt(&sql, &[&entity.id, &entity.version, &to.as_str()])?;
    Ok(row.ok_or(Stale)?.get(0))
}

/// Runs a plain UPDATE that every state of a shared task allows; shared tasks never end.
fn toggle(client: &mut impl GenericClient, task: Uuid) -> Result<i64> {
    let sql = "UPDATE workflow.task_instances SET state = CASE state WHEN 'running' THEN 'retrying' ELSE 'running' END
               WHERE id = $1 RETURNING version";
    Ok(client.query_one(sql, &[&task])?.get(0))
}

/// Draws an allowed next state; terminal states are rare.
fn next_state(random: &mut Rng, state: State) -> State {
    if random.u32(0..12) > 0 {
        return lasting_state(random, state);
    }
    state.next_states()[random.usize(0..state.next_states().len())]
}

/// Draws an allowed next state that is not terminal.
fn lasting_state(random: &mut Rng, state: State) -> State {
    let lasting: Vec<State> = state.next_states().iter().copied().filter(|next| !next.is_terminal()).collect();
    lasting[random.usize(0..lasting.len())]
}

/// Draws metadata: mostly small, sometimes too large for a notification.
fn metadata(random: &mut Rng) -> Value {
    let filler = match random.u32(0..100) {
        0 => 20_000,
        1..4 => 3_000,
        _ => 10,
    };
    json!({ "number": random.u32(..), "filler": "x\u{e9}\"".repeat(filler / 4) })
}
