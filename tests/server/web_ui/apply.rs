//! The page applies an event to a row as the database applied the transition.

use super::Stage;
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use uuid::Uuid;

/// No cycle of the state machine is longer.
const LONGEST: usize = 5;

/// Returns the ways from `queued` that are this long or end earlier.
fn ways() -> Vec<Vec<State>> {
    let mut ways = Vec::new();
    let mut begun = vec![vec![State::Queued]];
    while let Some(way) = begun.pop() {
        let next = way[way.len() - 1].next_states();
        if next.is_empty() || way.len() > LONGEST {
            ways.push(way);
            continue;
        }
        begun.extend(next.iter().map(|state| [&way[..], &[*state]].concat()));
    }
    ways
}

/// Takes an entity along a way. Returns its rows, and the event before each row but the first.
fn walk(client: &mut Client, table: &str, kind: &str, id: Uuid, way: &[State]) -> Value {
    let row = format!("SELECT to_jsonb(t) FROM workflow.{table} AS t WHERE id = $1");
    let mut rows: Vec<Value> = vec![client.query_one(&row, &[&id]).unwrap().get(0)];
    for (number, step) in way.windows(2).enumerate() {
        let with_error = matches!(step[1], State::Failed | State::Retrying) || number % 2 == 1;
        let metadata = if with_error { json!({"error": format!("error {number}")}) } else { json!({}) };
        Transition::of_type(kind, id).from(step[0]).to(step[1]).metadata(metadata).run(client).unwrap();
        rows.push(client.query_one(&row, &[&id]).unwrap().get(0));
    }
    let events = "SELECT jsonb_agg(to_jsonb(h) ORDER BY version) FROM workflow.state_history AS h
                  WHERE entity_id = $1 AND version > 1";
    let events: Value = client.query_one(events, &[&id]).unwrap().get(0);
    json!({"rows": rows, "events": events})
}

#[test]
fn page_applies_each_transition_as_the_database_does() {
    let Some(mut stage) = Stage::new() else { return };
    let client = &mut stage.db.connect();
    let ways = ways();
    assert!(ways.len() > 50, "{}", ways.len());
    let mut walks = Vec::new();
    for (way, task) in ways.iter().zip(create_tasks(client, ways.len())) {
        walks.push(walk(client, "task_instances", "task_instance", task, way));
        let run = "SELECT workflow.create_dag_run(workflow.create_dag(gen_random_uuid()::text))";
        let run: Uuid = client.query_one(run, &[]).unwrap().get(0);
        walks.push(walk(client, "dag_runs", "dag_run", run, way));
    }

    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/server/src/http/web_ui/script");
    let [format, apply] = ["format.js", "apply.js"].map(|name| fs::read_to_string(scripts.join(name)).unwrap());
    // A walk that went wrong, with its first wrong column.
    let wrong = stage.browser.evaluate(&format!(
        r#"(() => {{
            {format}
            {apply}
            const columns = ["state", "version", "start_date", "end_date", "try_number", "error"];
            const wrong = [];
            for (const {{ rows, events }} of {walks}) {{
                const row = {{ ...rows[0] }};
                events.forEach((event, n) => {{
                    applyEvent(row, event);
                    const column = columns.find((name) => rows[n + 1][name] !== undefined && rows[n + 1][name] !== row[name]);
                    if (column) wrong.push([column, row[column], rows[n + 1][column], events.slice(0, n + 1).map((e) => e.new_state)]);
                }});
            }}
            return wrong.slice(0, 10);
        }})()"#,
        walks = json!(walks),
    ));
    assert_eq!(wrong, json!([]), "column, on the page, in the database, and the way");
}
