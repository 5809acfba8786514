//! One worker: it creates graphs, claims their tasks and ends them in transactions of every kind.

use anyhow::Result;
use fastrand::Rng;
use pg_workflow_state_machine::State;
use postgres::error::SqlState;
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::Duration;
use uuid::Uuid;

use super::QUEUE;
use super::evidence::Record;
use super::plan::{self, Planned, end_of};
use super::ways::{End, Way};
use crate::chaos::session::{Session, Verdict, verdict};

/// So many attempts that no expired lease fails a task.
const MAX_TRIES: i32 = 10_000;

/// See [`super::Graphs`].
pub struct Worker {
    name: String,
    session: Session,
    random: Rng,
    dag: Uuid,
    prepares: bool,
    /// A statement has had no answer: there may be prepared transactions.
    has_lost_answers: bool,
    held: Vec<End>,
    /// Dependencies to add: run, parent, child.
    later: Vec<(Uuid, String, String)>,
    pub record: Record,
}

impl Worker {
    pub fn new(url: &str, number: u64, seed: u64, dag: Uuid, prepares: bool) -> Result<Worker> {
        let name = format!("chaos worker graphs {number}");
        let path = if number.is_multiple_of(2) { "on" } else { "off" };
        // A transaction that a lost session has prepared keeps its locks until it is found.
        let session =
            Session::new(url, &name)?.with_setting("pg_workflow.direct_path", path).with_setting("lock_timeout", "3s");
        let random = Rng::with_seed(seed ^ (number + 1).wrapping_mul(0xA076_1D64_78BD_642F));
        let record = Record { worker: name.clone(), ..Record::default() };
        let (held, later) = (Vec::new(), Vec::new());
        Ok(Worker { name, session, random, dag, prepares, has_lost_answers: false, held, later, record })
    }

    /// Does one random thing, and judges its error; fails if the database stays unavailable.
    pub fn step(&mut self) -> Result<()> {
        let Err(error) = self.act() else { return Ok(()) };
        match verdict(&error) {
            Some(Verdict::Unknown) => {
                self.record.unanswered += 1;
                self.has_lost_answers = true;
                self.session.reset();
                return Ok(());
            }
            Some(Verdict::Conflict) => self.record.conflicts += 1,
            Some(Verdict::Wrong) if is_excused(&error) => (),
            Some(Verdict::Wrong) => self.record.complaints.push(describe(&error)),
            None => return Err(error),
        }
        self.roll_back();
        Ok(())
    }

    fn act(&mut self) -> Result<()> {
        // Also later: an older session can still be about to prepare.
        if self.has_lost_answers {
            self.resolve()?;
        }
        match self.random.u32(0..100) {
            0..40 => self.claim(),
            40..60 => self.end_some(),
            60..70 => self.skip(),
            70..80 => self.create(),
            80..86 => self.add(),
            86..92 => self.reap(),
            92..94 => self.die(),
            _ => self.wait(),
        }
    }

    /// Ends the transaction, whatever becomes of it: a broken connection has none.
    fn roll_back(&mut self) {
        if self.session.client().and_then(|client| Ok(client.batch_execute("ROLLBACK")?)).is_err() {
            self.session.reset();
        }
    }

    fn claim(&mut self) -> Result<()> {
        let sql = "SELECT id, claim, task_id FROM workflow.claim_tasks($1, ARRAY[$2], $3, '2 s')";
        let max = self.random.i32(1..5);
        let rows = self.session.client()?.query(sql, &[&self.name, &QUEUE, &max])?;
        for row in &rows {
            self.record.claims += 1;
            let (id, claim, end) = (row.get(0), row.get(1), end_of(row.get(2))?);
            self.held.push(End { id, claim: Some(claim), end });
        }
        match (rows.is_empty(), self.random.bool()) {
            (true, _) => self.create(),
            (false, true) => self.end_some(),
            (false, false) => Ok(()),
        }
    }

    /// Ends some of the tasks that it holds.
    fn end_some(&mut self) -> Result<()> {
        let count = self.random.usize(1..6).min(self.held.len());
        self.random.shuffle(&mut self.held);
        let ends = self.held.split_off(self.held.len() - count);
        self.end(ends)
    }

    /// Skips tasks that wait for none, and that are in no queue.
    fn skip(&mut self) -> Result<()> {
        let sql = "SELECT t.id FROM workflow.task_instances AS t
            WHERE t.state = 'queued' AND t.queue_id IS NULL
                AND t.dag_run_id IN (SELECT id FROM workflow.dag_runs WHERE dag_id = $1)
                AND NOT EXISTS (SELECT FROM workflow.waits AS w WHERE w.join_id = t.join_id)
            ORDER BY random() LIMIT $2";
        let rows = self.session.client()?.query(sql, &[&self.dag, &self.random.i64(1..5)])?;
        let end = |row: &postgres::Row| End { id: row.get(0), claim: None, end: State::Skipped };
        self.end(rows.iter().map(end).collect())
    }

    /// Ends tasks in one transaction. If that fails, their claims expire.
    fn end(&mut self, mut ends: Vec<End>) -> Result<()> {
        if ends.is_empty() {
            return Ok(());
        }
        self.random.shuffle(&mut ends);
        let level = ["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"][self.random.usize(..4)];
        let ways: Vec<(Way, bool)> =
            ends.iter().map(|end| (end.draw_way(&mut self.random), self.random.u8(..5) == 0)).collect();
        let client = self.session.client()?;
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
        for (end, (way, is_undone_first)) in ends.iter().zip(ways) {
            if is_undone_first {
                client.batch_execute("SAVEPOINT s")?;
                end.say(client, way)?;
                client.batch_execute("ROLLBACK TO s")?;
            }
            end.say(client, way)?;
        }
        match self.random.u8(..10) {
            0 => {
                self.record.rolled_back += 1;
                self.held.extend(ends);
                Ok(self.session.client()?.batch_execute("ROLLBACK")?)
            }
            1..3 if self.prepares => self.prepare(),
            _ => Ok(self.session.client()?.batch_execute("COMMIT")?),
        }
    }

    /// Prepares the transaction, and ends it a little later.
    fn prepare(&mut self) -> Result<()> {
        let name = format!("{} {:x}", self.name, self.random.u64(..));
        self.session.client()?.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
        self.record.prepared += 1;
        if self.random.bool() {
            sleep(Duration::from_millis(self.random.u64(0..200)));
        }
        self.end_prepared(&name)
    }

    fn end_prepared(&mut self, name: &str) -> Result<()> {
        let end = if self.random.u8(..4) == 0 { "ROLLBACK" } else { "COMMIT" };
        Ok(self.session.client()?.batch_execute(&format!("{end} PREPARED '{name}'"))?)
    }

    /// Ends the transactions that it has prepared without knowing it.
    fn resolve(&mut self) -> Result<()> {
        let sql = "SELECT gid FROM pg_prepared_xacts WHERE starts_with(gid, $1)";
        let rows = self.session.client()?.query(sql, &[&format!("{} ", self.name)])?;
        rows.iter().try_for_each(|row| self.end_prepared(row.get(0)))
    }

    /// Creates a graph, by one or two calls, in one or two transactions.
    fn create(&mut self) -> Result<()> {
        let tasks = plan::draw(&mut self.random);
        let is_whole = self.random.u8(..3) > 0;
        let (first, second) = tasks.split_at(self.random.usize(1..=tasks.len()));
        let adds_now = self.random.bool();
        let mut transaction = self.session.client()?.transaction()?;
        let sql = "SELECT workflow.create_dag_run($1, clock_timestamp() + random() * interval '1 year', $2)";
        let run: Uuid = transaction.query_one(sql, &[&self.dag, &plan::to_json(&tasks)])?.get(0);
        create_tasks(&mut transaction, run, first)?;
        if is_whole {
            create_tasks(&mut transaction, run, second)?;
        }
        let now = if is_whole { &tasks[..] } else { first };
        let edge = |task: &Planned| Some((run, task.later.clone()?, task.name.clone()));
        let edges: Vec<_> = now.iter().filter_map(edge).collect();
        if adds_now {
            edges.iter().try_for_each(|edge| add(&mut transaction, edge))?;
        } else {
            self.later.extend(edges);
        }
        transaction.commit()?;
        self.record.graphs += 1;
        if !is_whole && !second.is_empty() {
            sleep(Duration::from_millis(self.random.u64(0..30)));
            let mut transaction = self.session.client()?.transaction()?;
            create_tasks(&mut transaction, run, second)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Adds a dependency while others end the parent, or the child.
    fn add(&mut self) -> Result<()> {
        let Some(edge) = self.later.pop() else { return Ok(()) };
        let mut transaction = self.session.client()?.transaction()?;
        add(&mut transaction, &edge)?;
        self.record.added += 1;
        Ok(transaction.commit()?)
    }

    fn reap(&mut self) -> Result<()> {
        self.session.client()?.execute("SELECT workflow.reap_claims(20)", &[])?;
        Ok(())
    }

    /// Is killed: it forgets all that it holds, in the middle of a transaction.
    fn die(&mut self) -> Result<()> {
        self.record.killed += 1;
        let client = self.session.client()?;
        client.batch_execute("BEGIN")?;
        for end in self.held.drain(..).take(2) {
            end.say(client, Way::ByHand)?;
        }
        self.session.reset();
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let call = format!("CALL workflow.wait_for_tasks('{{{QUEUE}}}', '200 ms')");
        self.session.client()?.query_one(&call, &[])?;
        Ok(())
    }
}

/// Creates tasks that depend on each other, or on earlier ones, and puts those into the queue that are not to be skipped.
fn create_tasks(client: &mut impl postgres::GenericClient, run: Uuid, tasks: &[Planned]) -> Result<()> {
    if tasks.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    let depends_on: Value = tasks.iter().map(|task| (task.name.clone(), json!(task.parents))).collect();
    let rules: Value = tasks.iter().map(|task| (task.name.clone(), json!(task.rule.as_str()))).collect();
    let sql =
        "SELECT id, task_id FROM workflow.create_task_instances($1, $2, $3, depends_on => $4, trigger_rules => $5)";
    let rows = client.query(sql, &[&run, &names, &MAX_TRIES, &depends_on, &rules])?;
    let claimed = rows.iter().filter(|row| !row.get::<_, &str>(1).ends_with("skipped"));
    let ids: Vec<Uuid> = claimed.map(|row| row.get(0)).collect();
    client.execute("SELECT workflow.enqueue_task_instances($1, $2)", &[&ids, &QUEUE])?;
    Ok(())
}

fn add(client: &mut impl postgres::GenericClient, (run, parent, child): &(Uuid, String, String)) -> Result<()> {
    client.execute("SELECT workflow.add_dependencies($1, ARRAY[$2], ARRAY[$3])", &[run, parent, child])?;
    Ok(())
}

/// Whether a worker can get this error: the child or the run is decided already; a lock is not free; the transaction cannot be
/// prepared, or was ended by another session.
fn is_excused(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<postgres::Error>().and_then(|error| error.code());
    let excused = [
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::UNDEFINED_OBJECT,
    ];
    excused.iter().any(|excused| code == Some(excused))
}

/// Without a backtrace, which would be as long as all the rest.
fn describe(error: &anyhow::Error) -> String {
    let of_database = error.downcast_ref::<postgres::Error>().and_then(postgres::Error::as_db_error);
    of_database.map_or_else(|| format!("{error:#}"), |error| format!("{error:?}"))
}
