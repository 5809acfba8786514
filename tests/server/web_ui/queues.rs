//! Queues, and the claim of a task.

use super::Stage;
use pg_workflow_tests::create_run;
use serde_json::{Value, json};
use uuid::Uuid;

/// The texts of each line of the table.
const LINES: &str = "[...document.querySelectorAll('[aria-label=Queues] tbody tr')].map(row => \
                     [...row.cells].map(cell => cell.textContent))";
const CLAIM: &str = "document.querySelector('[aria-label=Claim]:not([hidden])')?.textContent";

#[test]
fn queues_are_counted_again_while_they_are_shown() {
    let Some(mut stage) = Stage::new() else { return };
    let client = &mut stage.db.connect();
    stage.open("#/dags");
    stage.browser.wait("document.querySelector('a[href=\"#/queues\"]')");
    stage.browser.evaluate("document.querySelector('a[href=\"#/queues\"]').click()");
    stage.wait_live();
    stage.browser.wait("document.querySelector('#view').textContent.includes('No queues yet')");
    let (_, run) = create_run(client);
    let sql = "SELECT workflow.create_task_instances($1, '{a,b,c}', queue => 'mail')";
    client.query(sql, &[&run]).unwrap();
    client
        .batch_execute("SELECT workflow.set_queue('mail', slots => 1); SELECT workflow.set_queue('<b>etl</b>', paused_until => 'infinity')")
        .unwrap();
    client.query("SELECT workflow.claim_tasks('w-7', '{mail}')", &[]).unwrap();
    client.query("SELECT workflow.claim_tasks('w-8', '{mail}')", &[]).unwrap();
    stage.browser.wait(&format!("{LINES}.length === 2"));
    let lines = stage.browser.evaluate(LINES);
    let without_age = |line: &Value| -> Vec<Value> {
        line.as_array().unwrap().iter().enumerate().filter(|(n, _)| *n != 6).map(|(_, cell)| cell.clone()).collect()
    };
    assert_eq!(json!(without_age(&lines[0])), json!(["<b>etl</b> paused", "0", "0", "0", "0", "–", "0", "no end"]));
    assert_eq!(json!(without_age(&lines[1])), json!(["mail", "2", "0", "0", "1", "1", "1", "–"]));
    assert_eq!((&lines[0][6], lines[1][6].as_str().unwrap().ends_with('s')), (&json!("–"), true));
    stage.browser.screenshot("queues");
    stage.browser.resize(390, 844);
    assert!(stage.browser.evaluate("document.documentElement.scrollWidth <= innerWidth") == true, "fits a phone");
    stage.assert_no_complaints();
}

#[test]
fn history_of_a_task_shows_who_holds_it() {
    let Some(mut stage) = Stage::new() else { return };
    let client = &mut stage.db.connect();
    let (_, run) = create_run(client);
    let sql = "SELECT id FROM workflow.create_task_instances($1, '{a}', queue => 'mail', timeout => '1 h')";
    let task: Uuid = client.query_one(sql, &[&run]).unwrap().get(0);
    stage.open(&format!("#/history/task_instance/{task}"));
    stage.wait_live();
    assert_eq!(stage.browser.evaluate(CLAIM), Value::Null);
    let claim: String =
        client.query_one("SELECT claim FROM workflow.claim_tasks('w-7', '{mail}')", &[]).unwrap().get(0);
    stage.browser.wait(&format!("{CLAIM}?.includes('w-7')"));
    let shown = stage.browser.evaluate(CLAIM);
    let shown = shown.as_str().unwrap();
    assert!(shown.contains("mail") && shown.contains("Lease expires") && shown.contains("Times out"), "{shown}");
    assert!(!shown.contains("Cancel requested"), "{shown}");
    // No event tells of it.
    client.query("SELECT workflow.request_cancel($1)", &[&task]).unwrap();
    stage.browser.wait(&format!("{CLAIM}?.includes('Cancel requested')"));
    stage.browser.screenshot("claim");
    client.query("SELECT workflow.fail_claim($1, 'stopped')", &[&claim]).unwrap();
    stage.browser.wait("!document.querySelector('[aria-label=Claim]:not([hidden])')");
    stage.assert_no_complaints();
}
