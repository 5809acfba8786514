//! `GET /api/v1/…`: lists, and single rows.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use uuid::Uuid;

use super::Server;
use super::answer::Refusal;
use super::parameters::{self, Parameters};
use crate::event::{EntityType, Event};
use crate::list::{DagFilter, DagRunFilter, HistoryFilter, List, TaskInstanceFilter};
use crate::model::{Dag, DagRun, TaskInstance};
use crate::repository::{DagRuns, Dags, HistoryTracker, TaskInstances};

type Answer<T> = Result<Json<T>, Refusal>;
type Id = Result<Path<String>, PathRejection>;

const A_UUID: &str = "a UUID";

pub async fn dags(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Answer<List<Dag>> {
    let given = Parameters::parse(query.as_deref(), &["name", "tag", "paused", "limit", "cursor"])?;
    let filter = DagFilter {
        name: given.get("name", "a name")?,
        tag: given.get("tag", "a tag")?,
        paused: given.get("paused", "true or false")?,
        ..DagFilter::default()
    };
    let page = given.page()?;
    Ok(Json(Dags::new(&server.pool.get().await?).list(&filter, &page).await?))
}

pub async fn dag_runs(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Answer<List<DagRun>> {
    let given = Parameters::parse(query.as_deref(), &["dag_id", "state", "limit", "cursor"])?;
    let filter =
        DagRunFilter { dag_id: given.get("dag_id", A_UUID)?, states: given.states()?, ..DagRunFilter::default() };
    let page = given.page()?;
    Ok(Json(DagRuns::new(&server.pool.get().await?).list(&filter, &page).await?))
}

pub async fn task_instances(
    State(server): State<Arc<Server>>,
    RawQuery(query): RawQuery,
) -> Answer<List<TaskInstance>> {
    let given = Parameters::parse(query.as_deref(), &["dag_run_id", "state", "task_id", "limit", "cursor"])?;
    let filter = TaskInstanceFilter {
        dag_run_id: given.get("dag_run_id", A_UUID)?,
        states: given.states()?,
        task_id: given.get("task_id", "a task id")?,
    };
    let page = given.page()?;
    Ok(Json(TaskInstances::new(&server.pool.get().await?).list(&filter, &page).await?))
}

pub async fn history(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Answer<List<Event>> {
    let given = Parameters::parse(query.as_deref(), &["entity_type", "entity_id", "limit", "cursor"])?;
    let filter = HistoryFilter {
        entity_type: given.get::<EntityType>("entity_type", "dag_run or task_instance")?,
        entity_id: given.get("entity_id", A_UUID)?,
        ..HistoryFilter::default()
    };
    let page = given.page()?;
    Ok(Json(HistoryTracker::new(&server.pool.get().await?).list(&filter, &page).await?))
}

pub async fn dag(State(server): State<Arc<Server>>, id: Id, query: RawQuery) -> Answer<Dag> {
    let id = id_alone(id, query)?;
    found(Dags::new(&server.pool.get().await?).get(id).await?, "dag", id)
}

pub async fn dag_run(State(server): State<Arc<Server>>, id: Id, query: RawQuery) -> Answer<DagRun> {
    let id = id_alone(id, query)?;
    found(DagRuns::new(&server.pool.get().await?).get(id).await?, "dag run", id)
}

pub async fn task_instance(State(server): State<Arc<Server>>, id: Id, query: RawQuery) -> Answer<TaskInstance> {
    let id = id_alone(id, query)?;
    found(TaskInstances::new(&server.pool.get().await?).get(id).await?, "task instance", id)
}

fn id_alone(id: Id, RawQuery(query): RawQuery) -> Result<Uuid, Refusal> {
    Parameters::parse(query.as_deref(), &[])?;
    let Path(id) =
        id.map_err(|rejection| Refusal::BadRequest(format!("parameter \"id\": {}", rejection.body_text())))?;
    parameters::id(&id)
}

fn found<T>(row: Option<T>, what: &str, id: Uuid) -> Answer<T> {
    row.map(Json).ok_or_else(|| Refusal::NotFound(format!("there is no {what} with the id {id}")))
}
