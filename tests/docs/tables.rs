//! The tables of the documents list what exists.

use crate::markdown::{Page, code};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use uuid::Uuid;
use xtask::setup::pypi;
use xtask::stack::redis::Redis;

/// A table: its page, and the heading above it.
type Place = (&'static str, &'static str);

const STATES: Place = ("docs/reference/states.md", "Transitions");
const ERRORS: Place = ("docs/reference/errors.md", "Errors");
const EXCEPTIONS: Place = ("docs/clients/python.md", "Errors");
const EVENTS: Place = ("docs/reference/events.md", "Fields");
const PATHS: Place = ("docs/reference/http.md", "Paths");

const METRICS: Place = ("docs/operations/monitoring.md", "Metrics");

fn table((page, heading): Place) -> Vec<Vec<String>> {
    let table = Page::read(page).table(heading).filter(|table| !table.is_empty());
    table.unwrap_or_else(|| panic!("{page} has no table under {heading:?}"))
}

pub fn transitions_are_those_of_the_machine() {
    let listed: Vec<(String, Vec<String>)> =
        table(STATES).iter().map(|row| (code(&row[0])[0].clone(), code(&row[1]))).collect();
    let count: usize = listed.iter().map(|(_, next)| next.len()).sum();
    assert_eq!(count, 13);
    assert_eq!(listed.len(), State::ALL.len());
    for state in State::ALL {
        let next: Vec<String> = state.next_states().iter().map(State::to_string).collect();
        assert!(listed.contains(&(state.to_string(), next)), "{state}: {listed:?}");
    }
}

pub fn errors_have_the_keys_of_the_page() {
    let db = Db::new();
    let client = &mut db.connect();
    let task = create_task(client);
    let role = format!("plain_{}", Uuid::new_v4().simple());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA workflow TO {role};
             GRANT INSERT ON workflow.task_instances TO {role}"
        ))
        .unwrap();
    let listed = table(ERRORS);
    assert_eq!(listed.len(), 9);
    client
        .batch_execute(
            "SELECT workflow.create_consumer('leased'), workflow.lease_consumer('leased', 'me'),
                workflow.create_consumer('late');
             UPDATE workflow.consumers SET given_up_at = now() WHERE name = 'late'",
        )
        .unwrap();
    for row in listed {
        let sql = match row[0].as_str() {
            "23514" => "SELECT workflow.transition('task_instance', '{task}', 'queued', 'success')",
            "40001" => "SELECT workflow.transition('task_instance', '{task}', 'running', 'success')",
            "P0002" => "SELECT workflow.drop_consumer('nobody')",
            "22023" => "SELECT workflow.next_states('bogus')",
            "428C9" => "UPDATE workflow.task_instances SET version = 7",
            "42501" => "INSERT INTO workflow.task_instances (dag_run_id, task_id) VALUES ('{task}', 'x')",
            "2BP01" => "DROP EXTENSION pg_workflow",
            "55000" => "SELECT workflow.read_events('late')",
            "55006" => "SELECT workflow.read_events('leased')",
            other => panic!("an error without a test: {other}"),
        };
        let sql = sql.replace("{task}", &task.to_string());
        let failed = if row[0] == "42501" {
            failure(db.connect_as(&role).execute(&sql, &[]))
        } else {
            failure(client.execute(&sql, &[]))
        };
        assert_eq!(failed.sqlstate, row[0], "{sql}");
        assert!(!failed.hint.is_empty(), "{sql}");
        let keys: BTreeSet<String> = failed.detail.as_object().expect("JSON").keys().cloned().collect();
        assert_eq!(keys, code(&row[2]).into_iter().collect(), "{sql}");
    }
}

pub fn events_have_the_fields_of_the_page() {
    let db = Db::new();
    let client = &mut db.connect();
    create_task(client);
    let sql = "SELECT jsonb_object_agg(key, value) FROM (SELECT workflow.create_consumer('c', true)) AS c,
               LATERAL (SELECT to_jsonb(e) AS e FROM workflow.read_events('c', 1) AS e) AS e, jsonb_each(e)";
    let event: Value = client.query_one(sql, &[]).unwrap().get(0);
    let fields: BTreeSet<String> = event.as_object().unwrap().keys().cloned().collect();
    let listed: BTreeSet<String> = table(EVENTS).iter().flat_map(|row| code(&row[0])).collect();
    assert_eq!(listed, fields);
}

pub fn paths_take_the_parameters_of_the_page() {
    let db = Db::new();
    db.connect().query("SELECT workflow.set_queue('default')", &[]).unwrap();
    let redis = Redis::start("docs-http").unwrap();
    let (_server, url) = serve(db.url(), &redis.url());
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let get = |path: &str| -> (u16, Value) {
        let mut response = agent.get(format!("{url}{path}")).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_json().expect("JSON"))
    };
    let listed = table(PATHS);
    assert_eq!(listed.len(), 19);
    for row in listed {
        let path = &code(&row[0])[0];
        if path == "/" {
            assert_eq!(agent.get(&url).call().unwrap().headers()["content-type"], "text/html; charset=utf-8");
            continue;
        }
        if path == "/metrics" {
            let scrape = || agent.get(format!("{url}{path}")).call().unwrap().body_mut().read_to_string().unwrap();
            wait_until("the relay has a consumer", || scrape().contains("workflow_relay_lag_events"));
            for counted in ["queue_ready_tasks", "entities", "stuck_entities", "consumer_lag_events", "partitions"] {
                wait_until(counted, || scrape().contains(&format!("workflow_{counted}{{")));
            }
            let text = scrape();
            let histograms: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
            let name_of = |sample: &str| {
                let of_histogram = histograms.iter().find(|name| sample.starts_with(**name));
                of_histogram.map_or(sample, |name| *name).to_owned()
            };
            let names =
                text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split([' ', '{']).next());
            let listed = table(METRICS).into_iter().filter(|row| !row[4].contains("--read-only"));
            let listed: BTreeSet<String> = listed.map(|row| code(&row[0])[0].clone()).collect();
            assert_eq!(names.map(name_of).collect::<BTreeSet<_>>(), listed);
            continue;
        }
        if path == "/health" {
            let (status, health) = get(path);
            assert_eq!(status, 200);
            let page = Page::read(METRICS.0).text;
            let keys = health.as_object().unwrap().keys();
            keys.for_each(|key| assert!(page.contains(&format!("`{key}")), "{key}"));
            continue;
        }
        let (status, body) = get(&format!("{}?no-such=1", path.replace("{id}", &Uuid::nil().to_string())));
        assert_eq!(status, 400, "{path}: {body}");
        let known = match code(&row[1]) {
            none if none.is_empty() => "none".to_owned(),
            names => names.join(", "),
        };
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.ends_with(&format!("known parameters: {known}")), "{path}: {message}");
    }
}

pub fn drivers_have_the_exceptions_of_the_page() {
    let Some(python) = pypi::CLIENTS.find() else {
        eprintln!("skipped: no Python with psycopg and the other packages");
        return;
    };
    let listed = table(EXCEPTIONS);
    assert!(listed.len() >= 6);
    let check = |row: &Vec<String>| {
        let (code_of, psycopg, asyncpg) = (&row[0], &code(&row[1])[0], &code(&row[2])[0]);
        format!(
            "assert errors.lookup('{code_of}') is errors.{psycopg}\nassert exceptions.{asyncpg}.sqlstate == '{code_of}'\n"
        )
    };
    let checks: String = listed.iter().map(check).collect();
    let program = format!("from psycopg import errors\nfrom asyncpg import exceptions\n{checks}");
    let output = Command::new(python).args(["-c", &program]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
