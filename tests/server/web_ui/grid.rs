//! The grid shows every task and follows changes.

use super::data::task_names;
use super::{RUNS, Stage, TASKS};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::json;
use uuid::Uuid;

#[test]
fn grid_shows_every_task_and_follows_changes() {
    let Some(mut stage) = Stage::new() else { return };
    stage.open("");
    stage.browser.wait("document.querySelectorAll('.recent .mark').length >= 14");
    stage.browser.screenshot("dags");
    stage.open_grid();
    stage.wait_true();
    stage.browser.screenshot("grid");

    // Screen readers get names instead of colors.
    let mut names = Vec::new();
    wait_until("screen readers find a link for each cell and run", || {
        names = stage.browser.link_names(".grid");
        names.len() == RUNS * TASKS + RUNS
    });
    let sql = "SELECT task_id || ', ' || to_char(execution_date AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI, ') || replace(t.state, '_', ' ') \
               FROM workflow.task_instances AS t JOIN workflow.dag_runs AS r ON r.id = dag_run_id";
    let expected: Vec<String> = stage.db.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    for name in expected {
        assert!(names.contains(&name), "{name}");
    }

    // Names that users chose are shown as text.
    let shown = "[...document.querySelectorAll('[role=rowheader]')].map(name => name.textContent)";
    assert_eq!(stage.browser.evaluate(shown), json!(task_names()), "in the order of creation");
    assert_eq!(stage.browser.evaluate("[window.pwned ?? null, document.images.length]"), json!([null, 0]));

    // Another client makes a transition.
    let task = stage.task("notify_stock");
    stage.browser.evaluate("window.marker = 'not loaded again'");
    let client = &mut stage.db.connect();
    for (from, to) in [(State::Queued, State::Running), (State::Running, State::Failed)] {
        Transition::of(task).from(from).to(to).run(client).unwrap();
        stage.wait_state(task, to.as_str());
    }
    let label = format!("document.querySelector('.cell[href$=\"{task}\"]').getAttribute('aria-label')");
    assert_eq!(stage.browser.evaluate(&label), "notify_stock, 2026-11-25 03:00, failed");

    // A new run, with a task that no older run has.
    let sql = "SELECT workflow.create_dag_run($1, '2026-11-26 03:00+00')";
    let run: Uuid = client.query_one(sql, &[&stage.dag]).unwrap().get(0);
    let sql = "SELECT id FROM workflow.create_task_instances($1, ARRAY['extract_orders', 'quite_new'])";
    let tasks: Vec<Uuid> = client.query(sql, &[&run]).unwrap().iter().map(|row| row.get(0)).collect();
    stage.wait_state(tasks[1], "queued");
    let columns = "document.querySelectorAll('.head a').length";
    assert_eq!(stage.browser.evaluate(columns), RUNS, "the oldest run is hidden");
    stage
        .browser
        .evaluate("[...document.querySelectorAll('button')].find(b => b.textContent.includes('older')).click()");
    stage.browser.wait(&format!("{columns} === {RUNS} + 1"));
    assert_eq!(stage.browser.evaluate("window.marker"), "not loaded again");
    stage.assert_no_complaints();
}
