//! Claims: workers take tasks from queues, and end each by its claim.

mod corners;
mod end;
mod isolation;
mod leases;
mod log;
mod order;
mod places;
mod queues;
mod races;
mod reaping;
mod refusals;
mod stuck;
mod take;
mod wait;

use pg_workflow_tests::*;
use postgres::{Client, Row};
use uuid::Uuid;

/// A task that a worker has claimed.
#[derive(Debug)]
pub struct Claim {
    pub claim: String,
    pub id: Uuid,
    pub task_id: String,
    pub try_number: i32,
}

impl Claim {
    fn of(row: &Row) -> Claim {
        Claim {
            claim: row.get("claim"),
            id: row.get("id"),
            task_id: row.get("task_id"),
            try_number: row.get("try_number"),
        }
    }
}

/// Creates tasks in a new run that can be claimed from a queue.
pub fn enqueue(client: &mut Client, queue: &str, count: usize) -> Vec<Uuid> {
    let (_, run) = create_run(client);
    enqueue_in(client, run, queue, count)
}

pub fn enqueue_in(client: &mut Client, run: Uuid, queue: &str, count: usize) -> Vec<Uuid> {
    let names: Vec<String> = (0..count).map(|n| format!("{queue}_{n}")).collect();
    let sql = "SELECT id FROM workflow.create_task_instances($1, $2, queue => $3)";
    client.query(sql, &[&run, &names, &queue]).unwrap().iter().map(|row| row.get(0)).collect()
}

pub fn claim(client: &mut impl postgres::GenericClient, queue: &str, max: i32) -> Vec<Claim> {
    let sql = "SELECT * FROM workflow.claim_tasks('worker', ARRAY[$1], $2)";
    client.query(sql, &[&queue, &max]).unwrap().iter().map(Claim::of).collect()
}

pub fn claim_one(client: &mut impl postgres::GenericClient, queue: &str) -> Claim {
    claim(client, queue, 1).pop().expect("a task that can be claimed")
}

/// The names of claimed tasks.
pub fn names(claims: &[Claim]) -> Vec<&str> {
    claims.iter().map(|claim| claim.task_id.as_str()).collect()
}

pub fn state_of(client: &mut Client, task: Uuid) -> String {
    client.query_one("SELECT state FROM workflow.task_instances WHERE id = $1", &[&task]).unwrap().get(0)
}

/// The outcomes of a function for some claims.
pub fn outcomes(client: &mut Client, function: &str, claims: &[&str]) -> Vec<String> {
    let sql = format!("SELECT outcome FROM workflow.{function}($1)");
    client.query(&sql, &[&claims]).unwrap().iter().map(|row| row.get(0)).collect()
}
