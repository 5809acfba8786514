//! `GET /api/v1/…/{id}`: single rows; `GET /api/v1/…/counts`: counts by state.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::Server;
use super::error::{ApiError, Problem};
use super::openapi::ApiErrors;
use super::parameters::{Id, Query, UuidText};
use super::schema;
use pg_workflow_client::model::{Dag, DagRun, StateCounts, TaskInstance};
use pg_workflow_client::{DagRuns, Dags, TaskInstances};

type RowResult<T> = Result<Json<T>, ApiError>;

/// The parameters of an endpoint without parameters.
#[derive(Deserialize, IntoParams)]
pub struct NoParameters {}

/// Returns a DAG.
#[utoipa::path(get, path = "/api/v1/dags/{id}", tag = "dags", params(("id" = Uuid, Path)),
    responses((status = 200, body = schema::Dag), (status = 404, body = Problem), ApiErrors))]
pub async fn dag(State(server): State<Arc<Server>>, Id(id): Id, _: Query<NoParameters>) -> RowResult<Dag> {
    require(Dags::new(&server.read().await?).get(id).await?, "DAG", id)
}

/// Returns a run.
#[utoipa::path(get, path = "/api/v1/dag-runs/{id}", tag = "dag-runs", params(("id" = Uuid, Path)),
    responses((status = 200, body = schema::DagRun), (status = 404, body = Problem), ApiErrors))]
pub async fn dag_run(State(server): State<Arc<Server>>, Id(id): Id, _: Query<NoParameters>) -> RowResult<DagRun> {
    require(DagRuns::new(&server.read().await?).get(id).await?, "dag run", id)
}

/// Returns a task.
#[utoipa::path(get, path = "/api/v1/task-instances/{id}", tag = "task-instances", params(("id" = Uuid, Path)),
    responses((status = 200, body = schema::TaskInstance), (status = 404, body = Problem), ApiErrors))]
pub async fn task_instance(
    State(server): State<Arc<Server>>,
    Id(id): Id,
    _: Query<NoParameters>,
) -> RowResult<TaskInstance> {
    require(TaskInstances::new(&server.read().await?).get(id).await?, "task instance", id)
}

fn require<T>(row: Option<T>, entity: &str, id: Uuid) -> RowResult<T> {
    row.map(Json).ok_or_else(|| ApiError::not_found(format!("no {entity} {id}")))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DagRunCountParameters {
    /// Runs of this DAG; the default is all runs.
    #[param(schema_with = schema::uuid, required = false)]
    dag_id: Option<UuidText>,
}

/// Counts runs by state.
#[utoipa::path(get, path = "/api/v1/dag-runs/counts", tag = "dag-runs", params(DagRunCountParameters),
    responses((status = 200, body = schema::StateCounts), ApiErrors))]
pub async fn dag_run_counts(
    State(server): State<Arc<Server>>,
    Query(given): Query<DagRunCountParameters>,
) -> RowResult<StateCounts> {
    Ok(Json(DagRuns::new(&server.read().await?).count_by_state(given.dag_id.map(|id| id.0)).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TaskInstanceCountParameters {
    /// Tasks of this run; the default is all tasks.
    #[param(schema_with = schema::uuid, required = false)]
    dag_run_id: Option<UuidText>,
}

/// Counts tasks by state.
#[utoipa::path(get, path = "/api/v1/task-instances/counts", tag = "task-instances", params(TaskInstanceCountParameters),
    responses((status = 200, body = schema::StateCounts), ApiErrors))]
pub async fn task_instance_counts(
    State(server): State<Arc<Server>>,
    Query(given): Query<TaskInstanceCountParameters>,
) -> RowResult<StateCounts> {
    Ok(Json(TaskInstances::new(&server.read().await?).count_by_state(given.dag_run_id.map(|id| id.0)).await?))
}
