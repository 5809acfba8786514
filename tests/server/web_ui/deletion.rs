//! Deleted runs and tasks leave the page.

use super::{RUNS, Stage, TASKS};
use postgres::Client;
use serde_json::json;
use uuid::Uuid;

/// Runs a statement that deletes the row with this id.
fn delete(client: &mut Client, table: &str, id: Uuid) {
    assert_eq!(client.execute(&format!("DELETE FROM workflow.{table} WHERE id = $1"), &[&id]).unwrap(), 1);
}

#[test]
fn deleted_runs_and_tasks_leave_every_view() {
    let Some(mut stage) = Stage::new() else { return };
    let client = &mut stage.db.connect();
    let [task, other] = ["notify_stock", "notify_prices"].map(|name| stage.task(name));
    let runs: Vec<Uuid> = client
        .query("SELECT id FROM workflow.dag_runs ORDER BY execution_date DESC", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();

    // The grid: a cell, then a column.
    stage.open_grid();
    stage.browser.evaluate("window.marker = 'not loaded again'");
    delete(client, "task_instances", task);
    stage.browser.wait(&format!("document.querySelectorAll('.cell').length === {}", RUNS * TASKS - 1));
    delete(client, "dag_runs", runs[1]);
    stage.browser.wait(&format!("document.querySelectorAll('.head a').length === {RUNS} - 1"));
    stage.wait_true();

    // A run: a line of its timeline, then the run itself.
    stage.open(&format!("#/runs/{}", runs[0]));
    stage.browser.wait(&format!("document.querySelectorAll('.timeline .task').length === {} - 1", TASKS));
    stage.wait_live();
    delete(client, "task_instances", other);
    stage.browser.wait(&format!("document.querySelectorAll('.timeline .task').length === {} - 2", TASKS));
    delete(client, "dag_runs", runs[0]);
    stage.browser.wait("document.querySelector('h1').textContent === 'Deleted run'");

    // A history: of a deleted task, and of one whose run is deleted meanwhile.
    let state = "document.querySelector('.bar .state')?.textContent";
    stage.open(&format!("#/history/task_instance/{task}"));
    stage.browser.wait(&format!("{state} === 'deleted'"));
    let rest: Uuid = client
        .query_one("SELECT id FROM workflow.task_instances WHERE dag_run_id = $1 LIMIT 1", &[&runs[2]])
        .unwrap()
        .get(0);
    stage.open(&format!("#/history/task_instance/{rest}"));
    stage.browser.wait(&format!("{state} && {state} !== 'deleted'"));
    stage.wait_live();
    delete(client, "dag_runs", runs[2]);
    stage.browser.wait(&format!("{state} === 'deleted'"));

    // The list: the mark of a run, then the DAG, whose runs go with it.
    stage.open("#/dags");
    let newest = "document.querySelector('.recent .mark:last-child')?.getAttribute('href')";
    stage.browser.wait(&format!("{newest} === '#/runs/{}'", runs[3]));
    stage.wait_live();
    delete(client, "dag_runs", runs[3]);
    stage.browser.wait(&format!("{newest} === '#/runs/{}'", runs[4]));
    let dag = stage.dag;
    delete(client, "dags", dag);
    stage.browser.wait("document.querySelectorAll('[data-dag]').length === 0");
    assert_eq!(stage.browser.evaluate("window.marker"), json!("not loaded again"));
    stage.assert_no_complaints();
}
