//! The tables of the documents list what exists.

use crate::markdown::{Page, code, root};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use uuid::Uuid;
use xtask::setup::pypi;
use xtask::stack::redis::Redis;

/// Where a table can be: the first page that exists and has the heading.
type Places = &'static [(&'static str, &'static str)];

const STATES: Places = &[("docs/reference/states.md", "States"), ("README.md", "States")];
const ERRORS: Places = &[("docs/reference/errors.md", "Errors"), ("README.md", "Errors")];
const EXCEPTIONS: Places = &[("docs/clients/python.md", "Errors"), ("README.md", "From a program")];
const EVENTS: Places = &[("docs/reference/events.md", "Events"), ("README.md", "Events")];
const PATHS: Places = &[("docs/reference/http.md", "HTTP"), ("README.md", "HTTP")];
const METRICS: &[&str] = &["docs/operations/monitoring.md", "docs/reference/http.md", "README.md"];

fn find(places: Places) -> Option<Vec<Vec<String>>> {
    let pages = places.iter().filter(|(page, _)| root().join(page).exists());
    pages.into_iter().find_map(|(page, heading)| Page::read(page).table(heading).filter(|table| !table.is_empty()))
}

fn table(places: Places) -> Vec<Vec<String>> {
    find(places).unwrap_or_else(|| panic!("no page has the table: {places:?}"))
}

/// The text of all these pages.
fn text(pages: &[&str]) -> String {
    pages.iter().filter(|page| root().join(page).exists()).map(|page| Page::read(page).text).collect()
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
    assert_eq!(listed.len(), 8);
    client.batch_execute("SELECT workflow.create_consumer('leased'), workflow.lease_consumer('leased', 'me')").unwrap();
    for row in listed {
        let sql = match row[0].as_str() {
            "23514" => "SELECT workflow.transition('task_instance', '{task}', 'queued', 'success')",
            "40001" => "SELECT workflow.transition('task_instance', '{task}', 'running', 'success')",
            "P0002" => "SELECT workflow.drop_consumer('nobody')",
            "22023" => "SELECT workflow.next_states('bogus')",
            "428C9" => "UPDATE workflow.task_instances SET version = 7",
            "42501" => "INSERT INTO workflow.task_instances (dag_run_id, task_id) VALUES ('{task}', 'x')",
            "2BP01" => "DROP EXTENSION pg_workflow",
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
    let redis = Redis::start("docs-http").unwrap();
    let (_server, url) = serve(db.url(), &redis.url());
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let get = |path: &str| -> (u16, Value) {
        let mut response = agent.get(format!("{url}{path}")).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_json().expect("JSON"))
    };
    let (listed, described) = (table(PATHS), text(METRICS));
    assert_eq!(listed.len(), 15);
    for row in listed {
        let path = &code(&row[0])[0];
        if path == "/" {
            assert_eq!(agent.get(&url).call().unwrap().headers()["content-type"], "text/html; charset=utf-8");
            continue;
        }
        if path == "/metrics" {
            let metrics = agent.get(format!("{url}{path}")).call().unwrap().body_mut().read_to_string().unwrap();
            for name in metrics.lines().filter_map(|line| line.split(' ').next().filter(|name| !name.starts_with('#')))
            {
                assert!(described.contains(&format!("`{name}`")), "{name}");
            }
            continue;
        }
        if path == "/health" {
            let (status, health) = get(path);
            assert_eq!(status, 200);
            assert!(described.contains(&serde_json::to_string(&health["service"]).unwrap()));
            continue;
        }
        let (status, body) = get(&format!("{}?no-such=1", path.replace("{id}", &Uuid::nil().to_string())));
        assert_eq!(status, 400, "{path}: {body}");
        let known = match code(&row[1]) {
            none if none.is_empty() => "none".to_owned(),
            names => names.join(", "),
        };
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.ends_with(&format!("known here: {known}")), "{path}: {message}");
    }
}

pub fn psycopg_has_the_exceptions_of_the_page() {
    let Some(python) = pypi::CLIENTS.find() else {
        eprintln!("skipped: no Python with psycopg and the other packages");
        return;
    };
    let listed = table(EXCEPTIONS);
    assert!(listed.len() >= 7);
    let checks: String = listed
        .iter()
        .map(|row| format!("assert errors.lookup('{}') is errors.{}\n", row[0], code(&row[1])[0]))
        .collect();
    let output = Command::new(python).args(["-c", &format!("from psycopg import errors\n{checks}")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
