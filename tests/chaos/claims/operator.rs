//! The statements of others, which change tasks while workers hold them.

use anyhow::Result;
use pg_workflow_state_machine::State;
use serde_json::json;
use uuid::Uuid;

use super::worker::{Worker, now};
use super::{LIMITED, MAX_TRIES, OPEN};

/// A worker forgets older runs.
const KNOWN: usize = 12;

/// A run, with tasks of one queue.
#[derive(Debug, Clone)]
pub struct Run {
    id: Uuid,
    queue: &'static str,
    tasks: Vec<Uuid>,
}

impl Worker {
    pub(super) fn operate(&mut self) -> Result<()> {
        let Some(run) = self.random.choice(&self.runs).cloned() else { return self.create() };
        let task = run.tasks[self.random.usize(0..run.tasks.len())];
        match self.random.u32(0..24) {
            0..3 => self.toggle(task),
            3..6 => self.transition(task),
            6..8 => {
                let id = if self.random.u32(0..4) == 0 { run.id } else { task };
                self.execute("SELECT workflow.request_cancel($1)", id)
            }
            8..12 => self.reap(),
            12..16 => {
                let dag = self.ground.dags[self.random.usize(0..self.ground.dags.len())];
                let pauses = self.random.u32(0..3) == 0;
                self.execute(
                    if pauses { "SELECT workflow.pause_dag($1)" } else { "SELECT workflow.unpause_dag($1)" },
                    dag,
                )
            }
            16 if self.deletes => self.delete("DELETE FROM workflow.dag_runs WHERE id = $1", run.id),
            17 if self.deletes => self.delete("DELETE FROM workflow.task_instances WHERE id = $1", task),
            18 => self.pause_queue(),
            19 => {
                let slots = self.random.i32(1..6);
                self.ground.clone().set_slots(self.session.client()?, slots)
            }
            20..23 => self.enqueue(&run),
            _ => self.create(),
        }
    }

    fn delete(&mut self, sql: &str, id: Uuid) -> Result<()> {
        self.record.deletions.push((id, now()));
        self.execute(sql, id)
    }

    fn execute(&mut self, sql: &str, id: Uuid) -> Result<()> {
        self.session.client()?.execute(sql, &[&id])?;
        Ok(())
    }

    /// Creates a run with tasks.
    pub(super) fn create(&mut self) -> Result<()> {
        let random = &mut self.random;
        let queue = if random.u32(0..4) == 0 { LIMITED } else { OPEN };
        let names: Vec<String> = (0..random.u32(2..9)).map(|number| format!("{queue} {number}")).collect();
        let dag = self.ground.dags[random.usize(0..self.ground.dags.len())];
        let delay = random.bool().then(|| random.f64() * 0.5);
        let timeout = (random.u32(0..4) == 0).then(|| random.f64() * 2.0 + 0.5);
        let sql = "SELECT id FROM workflow.create_task_instances($1, $2, $3, queue => $4, priority => $5,
                       not_before => clock_timestamp() + make_interval(secs => $6), timeout => make_interval(secs => $7))";
        let priority = random.i32(0..10);
        let mut transaction = self.session.client()?.transaction()?;
        let id: Uuid = transaction.query_one("SELECT workflow.create_dag_run($1)", &[&dag])?.get(0);
        let rows = transaction.query(sql, &[&id, &names, &MAX_TRIES, &queue, &priority, &delay, &timeout])?;
        transaction.commit()?;
        self.runs.push(Run { id, queue, tasks: rows.iter().map(|row| row.get(0)).collect() });
        self.runs.drain(..self.runs.len().saturating_sub(KNOWN));
        Ok(())
    }

    /// Moves a task into or out of running by an UPDATE.
    fn toggle(&mut self, task: Uuid) -> Result<()> {
        let sql = "UPDATE workflow.task_instances
                   SET state = CASE state WHEN 'running' THEN 'retrying' ELSE 'running' END
                   WHERE id = $1 AND state IN ('queued', 'retrying', 'running')";
        self.execute(sql, task)
    }

    /// Moves a task by hand to any state that its state allows.
    fn transition(&mut self, task: Uuid) -> Result<()> {
        let state = "SELECT state FROM workflow.task_instances WHERE id = $1";
        let Some(row) = self.session.client()?.query_opt(state, &[&task])? else { return Ok(()) };
        let from: State = row.get::<_, &str>(0).parse()?;
        let Some(to) = self.random.choice(from.next_states()) else { return Ok(()) };
        let sql = "SELECT workflow.transition_task_instance($1, $2, $3, $4)";
        let by_hand = json!({ "by": "hand" });
        self.session.client()?.execute(sql, &[&task, &from.as_str(), &to.as_str(), &by_hand])?;
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        self.session.client()?.execute("SELECT workflow.reap_claims(5)", &[])?;
        Ok(())
    }

    fn pause_queue(&mut self) -> Result<()> {
        let queue = if self.random.bool() { OPEN } else { LIMITED };
        let seconds = self.random.f64() - 0.5;
        let sql = "SELECT workflow.set_queue($1, paused_until => clock_timestamp() + make_interval(secs => $2))";
        self.session.client()?.execute(sql, &[&queue, &seconds])?;
        Ok(())
    }

    /// Puts some tasks into their queue again, with another priority and time.
    fn enqueue(&mut self, run: &Run) -> Result<()> {
        let tasks = self.random.choose_multiple(run.tasks.iter().copied(), 3);
        let (priority, delay) = (self.random.i32(0..10), self.random.bool().then(|| self.random.f64() * 0.5));
        let sql = "SELECT workflow.enqueue_task_instances($1, $2, $3, clock_timestamp() + make_interval(secs => $4))";
        self.session.client()?.execute(sql, &[&tasks, &run.queue, &priority, &delay])?;
        Ok(())
    }
}
