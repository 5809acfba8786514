//! The graph of a run with dependencies.

use super::Stage;
use pg_workflow_tests::create_run;
use postgres::Client;
use serde_json::{Value, json};
use uuid::Uuid;

/// The boxes, as name, state and the layer that their place shows.
const BOXES: &str = "[...document.querySelectorAll('.graph .box')].map(box => [box.title, box.dataset.state, Number(box.parentElement.dataset.layer)])";
/// The texts of the details.
const DETAILS: &str =
    "[...document.querySelectorAll('.detail:not([hidden]) :is(h3, p, .tasks .box)')].map(part => part.textContent)";
/// The rules that bars name, and how many bars are lighter, and how many are not.
const BARS: &str = "[[...document.querySelectorAll('.graph text')].map(text => text.textContent), \
    document.querySelectorAll('.graph .decided .bar-line').length, document.querySelectorAll('.graph g:not(.decided) > .bar-line').length]";

impl Stage {
    fn open_run(&mut self, run: Uuid) {
        self.open(&format!("#/runs/{run}"));
        // The view of before is shown until this one has been loaded.
        self.browser.wait(&format!("document.querySelector('#crumbs [aria-current][href=\"#/runs/{run}\"]')"));
        self.browser.wait("document.querySelector('.timeline .task')");
        self.wait_live();
    }

    fn click(&mut self, title: &str) {
        self.browser.evaluate(&format!(
            "[...document.querySelectorAll('.graph .box')].find(box => box.title === {title:?}).click()"
        ));
    }

    fn wait_equal(&mut self, expression: &str, expected: &Value) {
        self.browser.wait(&format!("JSON.stringify({expression}) === JSON.stringify({expected})"));
    }
}

/// Creates a run of these tasks.
fn create(client: &mut Client, tasks: &str, depends_on: &str, rules: &str) -> Uuid {
    let (_, run) = create_run(client);
    let sql = format!(
        "SELECT count(*) FROM workflow.create_task_instances($1, {tasks}, depends_on => {depends_on}, trigger_rules => {rules})"
    );
    client.query_one(&sql, &[&run]).unwrap();
    run
}

/// Moves the tasks that fulfill a condition, first to running.
fn end(client: &mut Client, state: &str, which: &str) {
    for state in ["running", state] {
        client.batch_execute(&format!("UPDATE workflow.task_instances SET state = '{state}' WHERE {which}")).unwrap();
    }
}

const EVIL: &str = "<img src=x onerror='window.pwned = true'>";

fn create_diamond(client: &mut Client) -> Uuid {
    let (evil, rules) = (EVIL.replace('\'', "''"), "'{\"cleanup\": \"all_done\"}'");
    let depends_on = format!(
        "'{{\"clean\": [\"extract\"], \"{evil}\": [\"extract\"], \"load\": [\"clean\", \"{evil}\"], \"cleanup\": [\"load\", \"extract\"]}}'"
    );
    create(client, &format!("ARRAY['extract', 'clean', '{evil}', 'load', 'cleanup', 'alone']"), &depends_on, rules)
}

#[test]
fn graph_shows_layers_rules_and_what_a_task_waits_for() {
    let Some(mut stage) = Stage::new() else { return };
    let client = &mut stage.db.connect();
    let run = create_diamond(client);
    stage.open_run(run);
    let boxes = |extract: &str| {
        let tasks = [
            ("extract", extract, 0),
            ("alone", "queued", 0),
            ("clean", "queued", 1),
            (EVIL, "queued", 1),
            ("load", "queued", 2),
        ];
        let mut all: Vec<Value> = tasks.iter().map(|(name, state, layer)| json!([name, state, layer])).collect();
        all.push(json!(["cleanup", "queued", 3]));
        json!(all)
    };
    assert_eq!(stage.browser.evaluate(BOXES), boxes("queued"));
    assert_eq!(stage.browser.evaluate(BARS), json!([["all_done"], 0, 3]));
    let lefts = "[...document.querySelectorAll('.graph .layer')].map(layer => layer.getBoundingClientRect().left)";
    let lefts: Vec<f64> = serde_json::from_value(stage.browser.evaluate(lefts)).unwrap();
    assert!(lefts.is_sorted_by(|a, b| a < b), "{lefts:?}");

    stage.click("load");
    stage.wait_equal(DETAILS, &json!(["load", "Waits for:", "clean", EVIL]));
    assert_eq!(stage.browser.evaluate("document.querySelectorAll('.graph .on .bar-line').length"), 1);
    stage.click("cleanup");
    stage.wait_equal(DETAILS, &json!(["cleanup", "Waits for, by the rule all_done:", "extract", "load"]));
    stage.browser.screenshot("graph");

    // The state, the bar and the open details follow; no box moves.
    let places = "[...document.querySelectorAll('.graph .box')].map(box => { const { x, y } = box.getBoundingClientRect(); return [x, y]; })";
    let before = stage.browser.evaluate(places);
    end(client, "success", "task_id = 'extract'");
    stage.wait_equal(BOXES, &boxes("success"));
    stage.wait_equal(BARS, &json!([["all_done"], 1, 2]));
    stage.wait_equal(DETAILS, &json!(["cleanup", "Waits for, by the rule all_done:", "load"]));
    assert_eq!(stage.browser.evaluate(places), before);
    // A click on a parent shows it, another one on its box hides it.
    stage.browser.evaluate("document.querySelector('.detail .box').click()");
    stage.wait_equal(DETAILS, &json!(["load", "Waits for:", "clean", EVIL]));
    stage.click("load");
    stage.wait_equal(DETAILS, &json!([]));
    stage.click("extract");
    stage.wait_equal(DETAILS, &json!(["extract", "Depends on no task."]));

    // A failure decides what is behind it, and a rerun lets it wait again.
    end(client, "success", &format!("dag_run_id = '{run}' AND task_id LIKE '<img%'"));
    end(client, "failed", "task_id = 'clean'");
    stage.wait_equal(BARS, &json!([["all_done"], 3, 0]));
    client.query("SELECT workflow.rerun_tasks($1)", &[&run]).unwrap();
    stage.wait_equal(BARS, &json!([["all_done"], 1, 2]));
    stage.click("load");
    stage.wait_equal(DETAILS, &json!(["load", "Waits for:", "clean"]));
    assert_eq!(stage.browser.evaluate("window.pwned"), Value::Null);
    stage.assert_no_complaints();
}

#[test]
fn graph_groups_more_than_forty_siblings() {
    let Some(mut stage) = Stage::new() else { return };
    let client = &mut stage.db.connect();
    let tasks = "ARRAY['start'] || ARRAY(SELECT 'map[' || n || ']' FROM generate_series(1, 2034) AS n) || '{other}'::text[] \
                 || ARRAY(SELECT 'few_' || n FROM generate_series(1, 40) AS n) || '{merge}'::text[]";
    let depends_on = "(SELECT jsonb_object_agg('map[' || n || ']', '[\"start\"]'::jsonb) || '{\"other\": [\"start\"]}' \
        || jsonb_build_object('merge', jsonb_agg('map[' || n || ']')) FROM generate_series(1, 2034) AS n) \
        || (SELECT jsonb_object_agg('few_' || n, '[\"merge\"]'::jsonb) FROM generate_series(1, 40) AS n)";
    let run = create(client, tasks, depends_on, "'{}'");
    stage.open_run(run);
    let labels = "[...document.querySelectorAll('.graph .box')].slice(0, 4).map(box => box.getAttribute('aria-label'))";
    let grouped = |states: &str| {
        json!(["start, success", format!("map, 2,034 tasks: {states}"), "other, queued", "merge, queued"])
    };
    end(client, "success", "task_id = 'start'");
    stage.wait_equal(labels, &grouped("2,034 queued"));
    assert_eq!(stage.browser.evaluate("document.querySelector('.group .label').textContent"), "map × 2,034");
    assert_eq!(stage.browser.evaluate("document.querySelectorAll('.graph .box').length"), 44, "40 are not grouped");
    assert_eq!(
        stage.browser.evaluate("document.querySelectorAll('.graph .bar-line').length"),
        3,
        "a bar for each join"
    );
    println!(
        "2,076 tasks drawn in {} ms",
        stage.browser.evaluate("performance.getEntriesByName('graph', 'measure').at(-1).duration")
    );

    end(client, "failed", "task_id = 'map[1700]'");
    let fate = "1 failed, 2,033 queued";
    stage.browser.wait(&format!("{labels}[1].endsWith({fate:?})"));
    assert_eq!(stage.browser.evaluate("document.querySelector('.group').dataset.state"), "failed");
    stage.click("map");
    let listed = "[...document.querySelectorAll('.detail .tasks .box')].map(box => box.title)";
    stage.browser.wait(&format!("{listed}.length === 100"));
    assert_eq!(
        stage.browser.evaluate(&format!("{listed}.slice(0, 2)")),
        json!(["map[1700]", "map[1]"]),
        "trouble first"
    );
    stage.browser.screenshot("graph-grouped");
    end(client, "failed", "task_id = 'map[9]'");
    stage.browser.wait(&format!("JSON.stringify({listed}.slice(0, 3)) === '[\"map[9]\",\"map[1700]\",\"map[1]\"]'"));
    stage.browser.evaluate("[...document.querySelectorAll('.detail button')].at(-1).click()");
    stage.browser.wait(&format!("{listed}.length === 200"));
    stage.browser.evaluate("document.querySelector('.detail .tasks .box').click()");
    stage.wait_equal(DETAILS, &json!(["map[9]", "Waits for no task."]));
    // A long list of parents is shown in parts, too.
    stage.click("merge");
    stage.browser.wait(&format!("{listed}.length === 20"));
    stage.browser.evaluate("[...document.querySelectorAll('.detail button')].at(-1).click()");
    stage.browser.wait(&format!("{listed}.length === 200"));
    stage.assert_no_complaints();
}

#[test]
fn keyboard_goes_through_the_graph() {
    let Some(mut stage) = Stage::new() else { return };
    let client = &mut stage.db.connect();
    let run = create_diamond(client);
    stage.open_run(run);
    let focused = "document.activeElement.closest('.graph') && document.activeElement.title";
    stage.browser.evaluate("document.querySelector('.chips button:not([hidden])').focus()");
    stage.browser.press("Tab");
    assert_eq!(stage.browser.evaluate(focused), "extract", "one Tab leads into the graph");
    for (key, name) in [
        ("ArrowDown", "alone"),
        ("ArrowRight", EVIL),
        ("ArrowUp", "clean"),
        ("ArrowUp", "clean"),
        ("ArrowRight", "load"),
        ("ArrowRight", "cleanup"),
        ("ArrowLeft", "load"),
    ] {
        stage.browser.press(key);
        assert_eq!(stage.browser.evaluate(focused), name, "{key}");
    }
    stage.browser.press("Enter");
    stage.wait_equal(DETAILS, &json!(["load", "Waits for:", "clean", EVIL]));
    assert_eq!(stage.browser.evaluate("document.activeElement.getAttribute('aria-label')"), "load, queued");
    stage.browser.press("Tab");
    assert_eq!(
        stage.browser.evaluate("document.activeElement.textContent"),
        "History",
        "the next Tab leads to the details"
    );

    // New tasks change the graph; focus and choice stay.
    stage.click("load");
    stage.click("load");
    stage.browser.evaluate("[...document.querySelectorAll('.graph .box')].find(box => box.title === 'load').focus()");
    let sql = "SELECT workflow.create_task_instances($1, '{report}', depends_on => '{\"report\": [\"load\"]}')";
    client.query(sql, &[&run]).unwrap();
    stage.browser.wait("document.querySelector('.graph .box[title=report]')");
    assert_eq!(stage.browser.evaluate(focused), "load");
    assert_eq!(stage.browser.evaluate("document.querySelector('.graph [aria-pressed=true]').title"), "load");
    client.execute("DELETE FROM workflow.task_instances WHERE task_id = 'load'", &[]).unwrap();
    stage.browser.wait("!document.querySelector('.graph .box[title=load]')");
    stage.wait_equal(DETAILS, &json!([]));
    stage.assert_no_complaints();
}

#[test]
fn graph_appears_with_the_first_dependency() {
    let Some(mut stage) = Stage::new() else { return };
    let client = &mut stage.db.connect();
    let (_, run) = create_run(client);
    client.query("SELECT workflow.create_task_instances($1, '{a,b}')", &[&run]).unwrap();
    stage.open_run(run);
    let shown = "Boolean(document.querySelector('.dependencies:not([hidden])'))";
    assert_eq!(stage.browser.evaluate(shown), false);
    let sql = "SELECT workflow.create_task_instances($1, '{c}', depends_on => '{\"c\": [\"a\", \"b\"]}')";
    client.query(sql, &[&run]).unwrap();
    stage.browser.wait(shown);
    assert_eq!(stage.browser.evaluate(BOXES), json!([["a", "queued", 0], ["b", "queued", 0], ["c", "queued", 1]]));

    // A graph of more than 4 MiB is not drawn, and the tasks are shown all the same.
    let chain = "(SELECT jsonb_object_agg(repeat('x', 400) || n, jsonb_build_array(repeat('x', 400) || n - 1))
                  FROM generate_series(2, 6000) AS n)";
    let run = create(client, "ARRAY(SELECT repeat('x', 400) || n FROM generate_series(1, 6000) AS n)", chain, "'{}'");
    stage.open_run(run);
    stage.browser.wait("document.querySelector('.dependencies').textContent.includes('too large to draw')");
    assert_eq!(stage.browser.evaluate("document.querySelectorAll('.graph .box').length"), 0);
    stage.assert_no_complaints();
}

#[test]
fn graph_fits_a_phone_and_draws_a_long_chain_in_parts() {
    let Some(mut stage) = Stage::new() else { return };
    let client = &mut stage.db.connect();
    let name = |n: &str| format!("'a step with quite a long name, of the number ' || {n}");
    let tasks = format!("ARRAY(SELECT {} FROM generate_series(1, 500) AS n)", name("n"));
    let depends_on = format!(
        "(SELECT jsonb_object_agg({}, jsonb_build_array({})) FROM generate_series(2, 500) AS n)",
        name("n"),
        name("n - 1")
    );
    let run = create(client, &tasks, &depends_on, "'{}'");
    stage.browser.resize(360, 740);
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    stage.browser.call("Emulation.setEmulatedMedia", dark);
    stage.open_run(run);
    assert_eq!(stage.browser.evaluate("[document.documentElement.scrollWidth, innerWidth]"), json!([360, 360]));
    let count = "document.querySelectorAll('.graph .box').length";
    assert!(stage.browser.evaluate(count).as_u64() < Some(100), "those out of sight are not drawn");
    stage.browser.evaluate("document.querySelector('.graph [tabindex=\"0\"]').focus()");
    stage.browser.press("End");
    let name = "document.activeElement.title";
    assert_eq!(stage.browser.evaluate(name), "a step with quite a long name, of the number 500");
    stage.browser.wait(&format!("{count} > 50"));
    stage.browser.press("Enter");
    let parent = "a step with quite a long name, of the number 499";
    stage.browser.wait(&format!("{DETAILS}.at(-1) === {parent:?}"));
    let is_cut = "(() => { const [head, tail] = document.activeElement.querySelector('.cut').children; return [head.scrollWidth > head.clientWidth, tail.scrollWidth > tail.clientWidth]; })()";
    assert_eq!(stage.browser.evaluate(is_cut), json!([true, false]), "the end of a long name is visible");
    stage.browser.screenshot("phone-graph");
    stage.assert_no_complaints();
}
