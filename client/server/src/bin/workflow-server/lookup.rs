//! Finding what users name.

use anyhow::Result;
use pg_workflow_client::tokio_postgres::Client;
use pg_workflow_client::{Dag, DagRun, DagRuns, Dags, TaskInstance, TaskInstances};
use uuid::Uuid;

use crate::failure::Failure;

/// What an id or a name can stand for.
pub enum Found {
    Dag(Dag),
    Run(DagRun),
    Task(TaskInstance),
}

/// The DAG of this id or of this name.
pub async fn dag(client: &Client, name_or_id: &str) -> Result<Dag> {
    match dag_if_any(client, name_or_id).await? {
        Some(dag) => Ok(dag),
        None => Err(Failure::not_found(format!(
            "there is no DAG {}. These are there: workflow-server list dags",
            name_or_id
        ))),
    }
}

/// Whether it is the run that is there.
pub async fn run(client: &Client, id: Uuid) -> Result<()> {
    match DagRuns::new(client).get(id).await? {
        Some(_) => Ok(()),
        None => Err(Failure::not_found(format!(
            "there is no run {id}. Those that are there: workflow-server list runs; what became of it: workflow-server history {id}"
        ))),
    }
}

/// What this id, or the name of a DAG, stands for.
pub async fn anything(client: &Client, name_or_id: &str) -> Result<Found> {
    if let Ok(id) = name_or_id.parse() {
        if let Some(task) = TaskInstances::new(client).get(id).await? {
            return Ok(Found::Task(task));
        }
        if let Some(run) = DagRuns::new(client).get(id).await? {
            return Ok(Found::Run(run));
        }
    }
    if let Some(dag) = dag_if_any(client, name_or_id).await? {
        return Ok(Found::Dag(dag));
    }
    Err(Failure::not_found(match name_or_id.parse::<Uuid>() {
        Ok(id) => format!("no DAG, run or task has the id {id}. If it was deleted: workflow-server history {id}"),
        Err(_) => format!(
            "there is no DAG {}. These are there: workflow-server list dags. Runs and tasks go by their ids",
            name_or_id
        ),
    }))
}

async fn dag_if_any(client: &Client, name_or_id: &str) -> Result<Option<Dag>> {
    let dags = Dags::new(client);
    if let Ok(id) = name_or_id.parse()
        && let Some(dag) = dags.get(id).await?
    {
        return Ok(Some(dag));
    }
    Ok(dags.get_by_name(name_or_id).await?)
}
