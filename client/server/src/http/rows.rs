//! `GET /api/v1/…/{id}`: single rows; and how many there are in each state.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::Server;
use super::answer::{ApiError, Problem};
use super::openapi::ApiErrors;
use super::parameters::{Id, Query, UuidText};
use super::schema;
use pg_workflow_client::model::{Dag, DagRun, StateCounts, TaskInstance};
use pg_workflow_client::{DagRuns, Dags, TaskInstances};

type Answer<T> = Result<Json<T>, ApiError>;

/// An endpoint that takes none.
#[derive(Deserialize, IntoParams)]
pub struct NoParameters {}

/// One DAG.
#[utoipa::path(get, path = "/api/v1/dags/{id}", tag = "dags", params(("id" = Uuid, Path)),
    responses((status = 200, body = schema::Dag), (status = 404, body = Problem), ApiErrors))]
pub async fn dag(State(server): State<Arc<Server>>, Id(id): Id, _: Query<NoParameters>) -> Answer<Dag> {
    found(Dags::new(&server.read().await?).get(id).await?, "dag", id)
}

/// One run.
#[utoipa::path(get, path = "/api/v1/dag-runs/{id}", tag = "dag-runs", params(("id" = Uuid, Path)),
    responses((status = 200, body = schema::DagRun), (status = 404, body = Problem), ApiErrors))]
pub async fn dag_run(State(server): State<Arc<Server>>, Id(id): Id, _: Query<NoParameters>) -> Answer<DagRun> {
    found(DagRuns::new(&server.read().await?).get(id).await?, "dag run", id)
}

/// One task.
#[utoipa::path(get, path = "/api/v1/task-instances/{id}", tag = "task-instances", params(("id" = Uuid, Path)),
    responses((status = 200, body = schema::TaskInstance), (status = 404, body = Problem), ApiErrors))]
pub async fn task_instance(
    State(server): State<Arc<Server>>,
    Id(id): Id,
    _: Query<NoParameters>,
) -> Answer<TaskInstance> {
    found(TaskInstances::new(&server.read().await?).get(id).await?, "task instance", id)
}

fn found<T>(row: Option<T>, what: &str, id: Uuid) -> Answer<T> {
    row.map(Json).ok_or_else(|| ApiError::not_found(format!("there is no {what} with the id {id}")))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DagRunCountParameters {
    /// Of this DAG; where it is not given, of all.
    #[param(schema_with = schema::uuid, required = false)]
    dag_id: Option<UuidText>,
}

/// How many runs are in each state.
#[utoipa::path(get, path = "/api/v1/dag-runs/counts", tag = "dag-runs", params(DagRunCountParameters),
    responses((status = 200, body = schema::StateCounts), ApiErrors))]
pub async fn dag_run_counts(
    State(server): State<Arc<Server>>,
    Query(given): Query<DagRunCountParameters>,
) -> Answer<StateCounts> {
    Ok(Json(DagRuns::new(&server.read().await?).count_by_state(given.dag_id.map(|id| id.0)).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TaskInstanceCountParameters {
    /// Of this run; where it is not given, of all.
    #[param(schema_with = schema::uuid, required = false)]
    dag_run_id: Option<UuidText>,
}

/// How many tasks are in each state.
#[utoipa::path(get, path = "/api/v1/task-instances/counts", tag = "task-instances", params(TaskInstanceCountParameters),
    responses((status = 200, body = schema::StateCounts), ApiErrors))]
pub async fn task_instance_counts(
    State(server): State<Arc<Server>>,
    Query(given): Query<TaskInstanceCountParameters>,
) -> Answer<StateCounts> {
    Ok(Json(TaskInstances::new(&server.read().await?).count_by_state(given.dag_run_id.map(|id| id.0)).await?))
}
