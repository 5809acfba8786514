//! Looks up DAGs, runs and tasks by name or id.

use anyhow::Result;
use pg_workflow_client::tokio_postgres::Client;
use pg_workflow_client::{Dag, DagRun, DagRuns, Dags, TaskInstance, TaskInstances};
use uuid::Uuid;

use crate::failure::Failure;

/// The entity that an id or a name refers to.
pub enum Found {
    Dag(Dag),
    Run(DagRun),
    Task(TaskInstance),
}

/// Finds the DAG with this id or name.
pub async fn find_dag(client: &Client, name_or_id: &str) -> Result<Dag> {
    match find_dag_if_any(client, name_or_id).await? {
        Some(dag) => Ok(dag),
        None => Err(Failure::not_found(format!("no DAG {name_or_id}. List DAGs with: workflow-server list dags"))),
    }
}

/// Checks that this run exists.
pub async fn require_run(client: &Client, id: Uuid) -> Result<()> {
    match DagRuns::new(client).get(id).await? {
        Some(_) => Ok(()),
        None => Err(Failure::not_found(format!(
            "no run {id}. List runs with: workflow-server list runs. If it was deleted: workflow-server history {id}"
        ))),
    }
}

/// Finds the entity with this id, or the DAG with this name.
pub async fn find(client: &Client, name_or_id: &str) -> Result<Found> {
    if let Ok(id) = name_or_id.parse() {
        if let Some(task) = TaskInstances::new(client).get(id).await? {
            return Ok(Found::Task(task));
        }
        if let Some(run) = DagRuns::new(client).get(id).await? {
            return Ok(Found::Run(run));
        }
    }
    if let Some(dag) = find_dag_if_any(client, name_or_id).await? {
        return Ok(Found::Dag(dag));
    }
    Err(Failure::not_found(match name_or_id.parse::<Uuid>() {
        Ok(id) => format!("no DAG, run or task {id}. If it was deleted: workflow-server history {id}"),
        Err(_) => {
            format!("no DAG {name_or_id}. List DAGs with: workflow-server list dags. Runs and tasks have ids only")
        }
    }))
}

async fn find_dag_if_any(client: &Client, name_or_id: &str) -> Result<Option<Dag>> {
    let dags = Dags::new(client);
    if let Ok(id) = name_or_id.parse()
        && let Some(dag) = dags.get(id).await?
    {
        return Ok(Some(dag));
    }
    Ok(dags.get_by_name(name_or_id).await?)
}
