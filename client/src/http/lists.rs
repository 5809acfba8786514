//! `GET /api/v1/…`: lists, and single rows.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use uuid::Uuid;

use super::Server;
use super::answer::Refusal;
use super::parameters::{self, Parameters};
use crate::connect;
use crate::event::{EntityType, Event};
use crate::list::{self, DagFilter, DagRunFilter, HistoryFilter, List, TaskInstanceFilter};
use crate::model::{Dag, DagRun, Record, TaskInstance};

type Answer<T> = Result<Json<T>, Refusal>;
type Id = Result<Path<String>, PathRejection>;

const A_UUID: &str = "a UUID";

pub async fn dags(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Answer<List<Dag>> {
    let given = Parameters::parse(query.as_deref(), &["name", "tag", "paused", "limit", "cursor"])?;
    let filter = DagFilter {
        name: given.get("name", "a name")?,
        tag: given.get("tag", "a tag")?,
        paused: given.get("paused", "true or false")?,
    };
    let page = given.page()?;
    Ok(Json(list::dags(&*connect::take(&server.pool).await?, &filter, page).await?))
}

pub async fn dag_runs(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Answer<List<DagRun>> {
    let given = Parameters::parse(query.as_deref(), &["dag_id", "state", "limit", "cursor"])?;
    let filter = DagRunFilter { dag_id: given.get("dag_id", A_UUID)?, states: given.states()? };
    let page = given.page()?;
    Ok(Json(list::dag_runs(&*connect::take(&server.pool).await?, &filter, page).await?))
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
    Ok(Json(list::task_instances(&*connect::take(&server.pool).await?, &filter, page).await?))
}

pub async fn history(State(server): State<Arc<Server>>, RawQuery(query): RawQuery) -> Answer<List<Event>> {
    let given = Parameters::parse(query.as_deref(), &["entity_type", "entity_id", "limit", "cursor"])?;
    let filter = HistoryFilter {
        entity_type: given.get::<EntityType>("entity_type", "dag_run or task_instance")?,
        entity_id: given.get("entity_id", A_UUID)?,
    };
    let page = given.page()?;
    Ok(Json(list::history(&*connect::take(&server.pool).await?, &filter, page).await?))
}

pub async fn dag(server: State<Arc<Server>>, id: Id, query: RawQuery) -> Answer<Dag> {
    one(server, id, query, "dag").await
}

pub async fn dag_run(server: State<Arc<Server>>, id: Id, query: RawQuery) -> Answer<DagRun> {
    one(server, id, query, "dag run").await
}

pub async fn task_instance(server: State<Arc<Server>>, id: Id, query: RawQuery) -> Answer<TaskInstance> {
    one(server, id, query, "task instance").await
}

async fn one<T: Record<Id = Uuid>>(
    State(server): State<Arc<Server>>,
    id: Id,
    RawQuery(query): RawQuery,
    what: &str,
) -> Answer<T> {
    Parameters::parse(query.as_deref(), &[])?;
    let Path(id) =
        id.map_err(|rejection| Refusal::BadRequest(format!("parameter \"id\": {}", rejection.body_text())))?;
    let id = parameters::id(&id)?;
    let found = list::get(&*connect::take(&server.pool).await?, id).await?;
    found.map(Json).ok_or_else(|| Refusal::NotFound(format!("there is no {what} with the id {id}")))
}
