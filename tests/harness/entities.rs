//! DAGs, runs and tasks in a given state.

use crate::Transition;
use pg_workflow_state_machine::State;
use postgres::Client;
use std::collections::VecDeque;
use uuid::Uuid;

/// Creates a DAG with one run.
pub fn create_run(client: &mut Client) -> (Uuid, Uuid) {
    let name = Uuid::new_v4().to_string();
    let dag: Uuid = client.query_one("SELECT workflow.create_dag($1)", &[&name]).expect("a dag").get(0);
    let run: Uuid = client.query_one("SELECT workflow.create_dag_run($1)", &[&dag]).expect("a run").get(0);
    (dag, run)
}

/// Creates tasks `task_0`, `task_1`, … in a new run of a new DAG.
pub fn create_tasks(client: &mut Client, count: usize) -> Vec<Uuid> {
    let (_, run) = create_run(client);
    let names: Vec<String> = (0..count).map(|i| format!("task_{i}")).collect();
    let rows = client.query("SELECT id FROM workflow.create_task_instances($1, $2)", &[&run, &names]).expect("tasks");
    rows.iter().map(|row| row.get(0)).collect()
}

pub fn create_task(client: &mut Client) -> Uuid {
    create_tasks(client, 1)[0]
}

/// Creates tasks in a new run, and moves each to success: three events a task, and one of the run.
pub fn create_finished_tasks(client: &mut Client, count: usize) {
    for task in create_tasks(client, count) {
        Transition::of(task).from(State::Queued).to(State::Running).run(client).expect("the task is queued");
        Transition::of(task).from(State::Running).to(State::Success).run(client).expect("the task is running");
    }
}

/// Creates an entity and moves it to a state by the shortest path.
pub fn create_in_state(client: &mut Client, entity_type: &str, state: State) -> Uuid {
    let id = if entity_type == "dag_run" { create_run(client).1 } else { create_task(client) };
    for pair in path_to(state).windows(2) {
        Transition::of_type(entity_type, id).from(pair[0]).to(pair[1]).run(client).expect("an allowed transition");
    }
    id
}

/// The shortest path from queued to a state.
fn path_to(goal: State) -> Vec<State> {
    let mut paths = VecDeque::from([vec![State::Queued]]);
    while let Some(path) = paths.pop_front() {
        let last = path[path.len() - 1];
        if last == goal {
            return path;
        }
        paths.extend(last.next_states().iter().map(|next| [&path[..], &[*next]].concat()));
    }
    unreachable!("every state can be reached")
}

/// The table that holds the entities of a type.
pub fn table(entity_type: &str) -> &'static str {
    if entity_type == "dag_run" { "workflow.dag_runs" } else { "workflow.task_instances" }
}

/// Returns the state and version of an entity.
pub fn state_of(client: &mut Client, entity_type: &str, id: Uuid) -> (String, i64) {
    let sql = format!("SELECT state, version FROM {} WHERE id = $1", table(entity_type));
    let row = client.query_one(&sql, &[&id]).expect("the entity");
    (row.get(0), row.get(1))
}

/// Counts the history rows of an entity.
pub fn history_len(client: &mut Client, id: Uuid) -> i64 {
    let sql = "SELECT count(*) FROM workflow.state_history WHERE entity_id = $1";
    client.query_one(sql, &[&id]).expect("a count").get(0)
}
