//! Dependencies: tasks that run, fail or are skipped when others have ended, and runs that end themselves.

mod adding;
mod again;
mod creation;
mod crowd;
mod fails_on;
mod fates;
mod late;
mod looks;
mod property;
mod rerun;
mod rerun_property;
mod runs;
mod withheld;

use pg_workflow_tests::*;
use postgres::Client;
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

const REAP: &str = "SELECT workflow.reap_claims()";

/// A run whose tasks depend on each other.
pub struct Graph {
    pub run: Uuid,
    /// The tasks by name.
    pub ids: BTreeMap<String, Uuid>,
}

impl Graph {
    /// Creates the tasks, in the queue `graph`, in a new run.
    pub fn create(client: &mut Client, names: &[&str], depends_on: Value, rules: Value) -> Graph {
        let (_, run) = create_run(client);
        let mut graph = Graph { run, ids: BTreeMap::new() };
        graph.add(client, names, depends_on, rules);
        graph
    }

    /// Creates more tasks.
    pub fn add(&mut self, client: &mut impl postgres::GenericClient, names: &[&str], depends_on: Value, rules: Value) {
        let sql = "SELECT id, task_id FROM workflow.create_task_instances(
            $1, $2, queue => 'graph', depends_on => $3, trigger_rules => $4)";
        let rows = client.query(sql, &[&self.run, &names, &depends_on, &rules]).unwrap();
        self.ids.extend(rows.iter().map(|row| (row.get(1), row.get(0))));
    }

    pub fn id(&self, name: &str) -> Uuid {
        self.ids[name]
    }

    /// Moves a task by hand.
    pub fn move_to(&self, client: &mut impl postgres::GenericClient, name: &str, states: &[&str]) {
        for state in states {
            let sql = "UPDATE workflow.task_instances SET state = $2 WHERE id = $1";
            assert_eq!(client.execute(sql, &[&self.id(name), state]).unwrap(), 1);
        }
    }

    /// Runs a task to its end by hand.
    pub fn end(&self, client: &mut impl postgres::GenericClient, name: &str, state: &str) {
        match state {
            "skipped" => self.move_to(client, name, &["skipped"]),
            _ => self.move_to(client, name, &["running", state]),
        }
    }

    pub fn state(&self, client: &mut Client, name: &str) -> String {
        state_of(client, "task_instance", self.id(name)).0
    }

    pub fn run_state(&self, client: &mut Client) -> String {
        state_of(client, "dag_run", self.run).0
    }

    /// The names of the tasks of the run that can be claimed.
    pub fn ready(&self, client: &mut Client) -> Vec<String> {
        let sql = "SELECT t.task_id FROM workflow.ready AS r
            JOIN workflow.task_instances AS t ON t.id = r.task_instance_id AND t.version = r.version
            WHERE t.dag_run_id = $1 ORDER BY t.task_id";
        client.query(sql, &[&self.run]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The metadata of the last event of a task or a run.
    pub fn metadata(&self, client: &mut Client, id: Uuid) -> Value {
        let sql = "SELECT metadata FROM workflow.state_history WHERE entity_id = $1 ORDER BY version DESC LIMIT 1";
        client.query_one(sql, &[&id]).unwrap().get(0)
    }
}

/// How many joins are undecided.
pub fn undecided(client: &mut Client) -> i64 {
    client.query_one("SELECT count(DISTINCT join_id) FROM workflow.waits", &[]).unwrap().get(0)
}
