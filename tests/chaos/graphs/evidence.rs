//! The evidence: what the workers say, and the runs with their tasks and dependencies.

use anyhow::{Context, Result};
use pg_workflow_state_machine::{State, TriggerRule};
use postgres::Client;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

use super::plan::{self, Planned};

/// The record of one worker.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub worker: String,
    pub graphs: usize,
    pub claims: usize,
    pub added: usize,
    pub prepared: usize,
    pub rolled_back: usize,
    pub conflicts: usize,
    pub killed: usize,
    /// Statements and commits without an answer.
    pub unanswered: usize,
    /// Joins that watched a task which had ended.
    pub unseen: Vec<String>,
    /// Errors that a worker must never get.
    pub complaints: Vec<String>,
}

/// A task at the end.
#[derive(Debug, Clone)]
pub struct Task {
    pub state: State,
    pub tries: i32,
    /// The events by which it ran first, and that is its last.
    pub started: Option<i64>,
    pub ended: i64,
    /// Its rule and the names of its parents, if it has any; and whether their ends have decided.
    pub join: Option<Join>,
}

#[derive(Debug, Clone)]
pub struct Join {
    pub rule: TriggerRule,
    pub parents: BTreeSet<String>,
    pub is_decided: bool,
}

#[derive(Debug, Clone)]
pub struct Run {
    pub id: Uuid,
    pub state: State,
    pub plan: Vec<Planned>,
    /// By their names. Some can be missing: the second part of the plan.
    pub tasks: BTreeMap<String, Task>,
}

/// All data that the checker compares.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub records: Vec<Record>,
    pub runs: Vec<Run>,
}

impl Evidence {
    pub(super) fn gather(client: &mut Client, dag: Uuid, records: Vec<Record>) -> Result<Evidence> {
        let mut runs = BTreeMap::new();
        for row in client.query("SELECT id, state, conf FROM workflow.dag_runs WHERE dag_id = $1", &[&dag])? {
            let (id, plan): (Uuid, Value) = (row.get(0), row.get(2));
            let (state, plan) = (row.get::<_, &str>(1).parse()?, plan::from_json(&plan)?);
            runs.insert(id, Run { id, state, plan, tasks: BTreeMap::new() });
        }
        let sql = "SELECT t.dag_run_id, t.task_id, t.state, t.try_number, h.started, h.ended
            FROM workflow.dag_runs AS r
            JOIN workflow.task_instances AS t ON t.dag_run_id = r.id
            JOIN (SELECT entity_id, min(id) FILTER (WHERE new_state = 'running') AS started, max(id) AS ended
                  FROM workflow.state_history WHERE dag_id = $1 GROUP BY entity_id) AS h ON h.entity_id = t.id
            WHERE r.dag_id = $1";
        for row in client.query(sql, &[&dag])? {
            let run = runs.get_mut(&row.get(0)).context("a task without a run")?;
            let state = row.get::<_, &str>(2).parse()?;
            let task = Task { state, tries: row.get(3), started: row.get(4), ended: row.get(5), join: None };
            run.tasks.insert(row.get(1), task);
        }
        let sql = "SELECT r.id, g.trigger_rule, g.parents, g.children, g.is_decided
            FROM workflow.dag_runs AS r, workflow.dag_run_graph(r.id) AS g WHERE r.dag_id = $1";
        for row in client.query(sql, &[&dag])? {
            let run = runs.get_mut(&row.get(0)).context("a join without a run")?;
            let parents = row.get::<_, Vec<String>>(2).into_iter().collect();
            let join = Join { rule: row.get::<_, &str>(1).parse()?, parents, is_decided: row.get(4) };
            for child in row.get::<_, Vec<String>>(3) {
                run.tasks.get_mut(&child).context("a child without a task")?.join = Some(join.clone());
            }
        }
        Ok(Evidence { records, runs: runs.into_values().collect() })
    }

    /// The complaints of all workers, with their names.
    pub fn complaints(&self) -> impl Iterator<Item = String> {
        let of = |one: &Record| one.complaints.iter().map(|text| format!("{}: {text}", one.worker)).collect::<Vec<_>>();
        self.records.iter().flat_map(of)
    }
}
