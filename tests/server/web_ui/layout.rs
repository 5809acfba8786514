//! Layout on a phone and on a desktop.

use super::Stage;
use serde_json::json;
use std::collections::BTreeMap;
use uuid::Uuid;

#[test]
fn pages_fit_a_phone() {
    let Some(mut stage) = Stage::new() else { return };
    stage.browser.resize(360, 740);
    let task = stage.task("extract_orders");
    let sql = "SELECT dag_run_id FROM workflow.task_instances WHERE id = $1";
    let run: Uuid = stage.db.connect().query_one(sql, &[&task]).unwrap().get(0);
    let views = [
        ("phone-dags", "#/dags".to_owned(), ".recent .mark"),
        ("phone", format!("#/dags/{}", stage.dag), ".cell"),
        ("phone-run", format!("#/runs/{run}"), ".timeline .task"),
        ("phone-history", format!("#/history/task_instance/{task}"), "[aria-label=Transitions] tbody tr"),
    ];
    for (name, hash, sign) in views {
        stage.open(&hash);
        stage.browser.wait(&format!("document.querySelector({sign:?})"));
        stage.wait_live();
        let widths = stage.browser.evaluate("[document.documentElement.scrollWidth, innerWidth]");
        assert_eq!(widths, json!([360, 360]), "{name}");
        stage.browser.screenshot(name);
    }
    stage.open_grid();
    let sticky = "document.querySelector('[role=rowheader]').getBoundingClientRect().left - document.querySelector('.grid').getBoundingClientRect().left";
    assert!(
        stage.browser.evaluate("document.querySelector('.grid').scrollLeft").as_f64() > Some(100.0),
        "the newest run is visible"
    );
    assert!(stage.browser.evaluate(sticky).as_f64() < Some(3.0), "the names of the tasks stay visible");

    stage.browser.resize(1280, 860);
    stage.open(&format!("#/runs/{run}"));
    stage.browser.wait("document.querySelectorAll('.timeline .task').length === 80");
    stage.wait_live();
    stage.browser.screenshot("run");
    let counts = stage.browser.evaluate("Object.fromEntries([...document.querySelectorAll('.chips button:not([hidden])')].map(b => [b.querySelector('.state').textContent, Number(b.querySelector('b').textContent)]))");
    let sql =
        "SELECT replace(state, '_', ' '), count(*) FROM workflow.task_instances WHERE dag_run_id = $1 GROUP BY state";
    let rows = stage.db.connect().query(sql, &[&run]).unwrap();
    let expected: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(counts, json!(expected));
    stage.assert_no_complaints();
}
