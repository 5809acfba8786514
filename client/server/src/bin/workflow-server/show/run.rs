use std::io;

use anyhow::Result;
use pg_workflow_client::list::{ListOptions, TaskInstanceFilter};
use pg_workflow_client::tokio_postgres::Client;
use pg_workflow_client::{DagRun, Dags, Error, State, TaskInstance, TaskInstances};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{WithRelated, print_fields};
use crate::list;
use crate::output::{Output, style_of};
use crate::table::{Cell, Table};
use crate::time::{elapsed, second, second_or_none};

const TASKS: u32 = 20;
/// The states that need attention, shown first.
const FIRST: [State; 4] = [State::Failed, State::UpstreamFailed, State::Retrying, State::Running];
const THEN: [State; 3] = [State::Queued, State::Success, State::Skipped];

#[derive(Serialize)]
struct Related {
    dag_name: Option<String>,
    task_states: Map<String, Value>,
    tasks: Vec<TaskInstance>,
}

pub async fn show(client: &Client, run: DagRun, output: &mut Output, is_json: bool) -> Result<()> {
    let dag_name = Dags::new(client).get(run.dag_id).await?.map(|dag| dag.name);
    let counts = TaskInstances::new(client).count_by_state(Some(run.id)).await?;
    let total = counts.total;
    let counts: Vec<(State, i64)> =
        State::ALL.map(|state| (state, counts.of(state))).into_iter().filter(|(_, count)| *count > 0).collect();
    let tasks = read_tasks(client, &run).await?;
    if is_json {
        let task_states = counts.iter().map(|(state, count)| (state.to_string(), Value::from(*count))).collect();
        let related = Related { dag_name, task_states, tasks };
        return Ok(output.json(&WithRelated { entity_type: "dag_run", row: run, related })?);
    }
    print_row(&run, dag_name, output)?;
    output.heading("Tasks")?;
    output.line(&summarize(&counts, output))?;
    if total > 0 {
        output.line("")?;
    }
    let rows: Vec<Vec<Cell>> = tasks.iter().map(|task| list::task_row(task, false)).collect();
    Table::new(list::task_columns(false)).print(output, &rows)?;
    if total > tasks.len() as i64 {
        let more = total - tasks.len() as i64;
        output.line(&format!("… {more} more: workflow-server list tasks --run {} --all", run.id))?;
    }
    Ok(())
}

/// Reads some tasks of the run, failed ones first.
async fn read_tasks(client: &Client, run: &DagRun) -> Result<Vec<TaskInstance>, Error> {
    let tasks = TaskInstances::new(client);
    let mut found = Vec::new();
    for states in FIRST.iter().map(|state| vec![*state]).chain([THEN.to_vec()]) {
        let limit = TASKS - found.len() as u32;
        if limit > 0 {
            let filter = TaskInstanceFilter { dag_run_id: Some(run.id), states, ..TaskInstanceFilter::default() };
            found.extend(tasks.list(&filter, &ListOptions { limit, ..ListOptions::default() }).await?.items);
        }
    }
    Ok(found)
}

fn print_row(run: &DagRun, dag_name: Option<String>, output: &mut Output) -> io::Result<()> {
    print_fields(
        output,
        vec![
            ("run", Cell::from(run.id.to_string())),
            ("dag", Cell::optional(dag_name)),
            ("dag id", Cell::from(run.dag_id.to_string())),
            ("execution date", Cell::from(second(run.execution_date))),
            ("state", Cell::from(run.state)),
            ("version", Cell::from(run.version.to_string())),
            ("started", Cell::optional(second_or_none(run.start_date))),
            ("finished", Cell::optional(second_or_none(run.end_date))),
            ("duration", Cell::optional(elapsed(run.state, run.start_date, run.end_date))),
            ("conf", Cell::from(run.conf.get())),
            ("created", Cell::from(second(run.created_at))),
            ("updated", Cell::from(second(run.updated_at))),
        ],
    )
}

fn summarize(counts: &[(State, i64)], output: &Output) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let counts = counts.iter().map(|(state, count)| output.paint(&format!("{count} {state}"), style_of(*state)));
    counts.collect::<Vec<_>>().join(", ")
}
