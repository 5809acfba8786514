//! Navigation by keyboard.

use super::{Stage, TASKS};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::json;

#[test]
fn keyboard_reaches_a_cell_and_its_history() {
    let Some(mut stage) = Stage::new() else { return };
    let task = stage.task("notify_regions");
    let client = &mut stage.db.connect();
    let sql = "SELECT workflow.append_task_log($1, '<b>bold</b>', 'WARNING')";
    client.query_one(sql, &[&task]).unwrap();
    stage.open_grid();

    stage.browser.press("/");
    stage.browser.wait("document.activeElement.matches('input[type=search]')");
    stage.browser.press("Tab");
    let focus = "document.activeElement.getAttribute('aria-label')";
    assert_eq!(
        stage.browser.evaluate(focus),
        "extract_orders, 2026-11-25 03:00, success",
        "one Tab leads into the grid"
    );
    stage.browser.press("ArrowUp");
    assert_eq!(stage.browser.evaluate(focus), "run of 2026-11-25 03:00, running");
    for _ in 0..TASKS {
        stage.browser.press("ArrowDown");
    }
    stage.browser.press("ArrowLeft");
    assert_eq!(stage.browser.evaluate(focus), "notify_regions, 2026-11-24 03:00, success");
    stage.browser.press("ArrowRight");
    assert_eq!(stage.browser.evaluate(focus), "notify_regions, 2026-11-25 03:00, queued");
    let hidden = "(() => { const box = document.activeElement.getBoundingClientRect(); \
                  return document.elementFromPoint(box.x + 5, box.y + 5) !== document.activeElement; })()";
    assert_eq!(stage.browser.evaluate(hidden), false, "the focused cell is visible");
    stage.browser.press("Enter");
    stage.browser.wait(&format!("location.hash === '#/history/task_instance/{task}'"));
    stage.browser.wait(
        "document.querySelectorAll('[aria-label=Transitions] tbody tr').length === 1 && document.querySelector('.log b')",
    );
    assert_eq!(stage.browser.evaluate("document.querySelector('.log pre').textContent"), "<b>bold</b>");

    // The open history grows.
    start_task(client, task);
    let metadata = json!({"error": "disk full", "worker": "w-7"});
    Transition::of(task).from(State::Running).to(State::Failed).metadata(metadata).run(client).unwrap();
    stage.browser.wait("document.querySelectorAll('[aria-label=Transitions] tbody tr').length === 3");
    let first = stage.browser.evaluate("document.querySelector('[aria-label=Transitions] tbody tr').innerText");
    let first = first.as_str().unwrap().to_owned();
    for part in ["running", "failed", "3", "postgres", "w-7"] {
        assert!(first.contains(part), "{part}: {first}");
    }
    stage.browser.screenshot("history");

    // Going back restores the focus.
    stage.browser.evaluate("history.back()");
    stage.browser.wait(&format!("{focus}?.startsWith('notify_regions, 2026-11-25')"));
    stage.assert_no_complaints();
}
