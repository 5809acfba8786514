//! `GET /api/v1/…`: lists.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Server;
use super::answer::{ApiError, PageResponse};
use super::openapi::ApiErrors;
use super::parameters::{Fields, Id, Kind, Limit, Moment, Order, Query, States, Text, TryNumber, UuidText, page};
use super::schema;
use pg_workflow_client::event::Event;
use pg_workflow_client::list::{
    DagFilter, DagRunFilter, DagRunSort, DagSort, HistoryFilter, HistorySort, TaskInstanceFilter, TaskInstanceSort,
    TaskLogFilter, TaskLogSort,
};
use pg_workflow_client::model::{Dag, DagRun, TaskInstance, TaskLog};
use pg_workflow_client::{DagRuns, Dags, History, TaskInstances, TaskLogs};

type Answer<T> = Result<PageResponse<T>, ApiError>;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DagParameters {
    /// Of this name.
    #[param(schema_with = schema::text, required = false)]
    name: Option<Text>,
    /// Of a name that begins so.
    #[param(schema_with = schema::text, required = false)]
    name_prefix: Option<Text>,
    /// With this tag.
    #[param(schema_with = schema::text, required = false)]
    tag: Option<Text>,
    /// Paused, or not.
    paused: Option<bool>,
    /// Where it is not given, the newest come first.
    #[param(schema_with = schema::order::<DagSort>, required = false)]
    order_by: Option<Order<DagSort>>,
    /// How many rows at most.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// The `next_cursor` of the page before.
    #[param(schema_with = schema::dag_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::Dag>, required = false)]
    fields: Option<Fields<schema::Dag>>,
}

/// Lists DAGs.
#[utoipa::path(get, path = "/api/v1/dags", tag = "dags", params(DagParameters),
    responses((status = 200, body = schema::List<schema::Dag>), ApiErrors))]
pub async fn dags(State(server): State<Arc<Server>>, Query(given): Query<DagParameters>) -> Answer<Dag> {
    let filter = DagFilter {
        name: given.name.map(|name| name.0),
        name_prefix: given.name_prefix.map(|prefix| prefix.0),
        tag: given.tag.map(|tag| tag.0),
        paused: given.paused,
    };
    let page = page(given.limit, given.cursor, given.order_by);
    Ok(PageResponse::new(Dags::new(&server.read().await?).list(&filter, &page).await?, given.fields))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DagRunParameters {
    /// Of this DAG.
    #[param(schema_with = schema::uuid, required = false)]
    dag_id: Option<UuidText>,
    /// In one of these states.
    #[param(schema_with = schema::states, required = false)]
    state: Option<States>,
    /// Of this execution date or later.
    #[param(schema_with = schema::moment, required = false)]
    execution_date_gte: Option<Moment>,
    /// Of an earlier execution date.
    #[param(schema_with = schema::moment, required = false)]
    execution_date_lt: Option<Moment>,
    /// Where it is not given: `-execution_date` with a DAG or a date, else `-id`.
    #[param(schema_with = schema::order::<DagRunSort>, required = false)]
    order_by: Option<Order<DagRunSort>>,
    /// How many rows at most.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// The `next_cursor` of the page before.
    #[param(schema_with = schema::dag_run_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::DagRun>, required = false)]
    fields: Option<Fields<schema::DagRun>>,
}

/// Lists runs.
#[utoipa::path(get, path = "/api/v1/dag-runs", tag = "dag-runs", params(DagRunParameters),
    responses((status = 200, body = schema::List<schema::DagRun>), ApiErrors))]
pub async fn dag_runs(State(server): State<Arc<Server>>, Query(given): Query<DagRunParameters>) -> Answer<DagRun> {
    let filter = DagRunFilter {
        dag_id: given.dag_id.map(|id| id.0),
        states: given.state.map_or(Vec::new(), |states| states.0),
        execution_date_gte: given.execution_date_gte.map(|moment| moment.0),
        execution_date_lt: given.execution_date_lt.map(|moment| moment.0),
    };
    let page = page(given.limit, given.cursor, given.order_by);
    Ok(PageResponse::new(DagRuns::new(&server.read().await?).list(&filter, &page).await?, given.fields))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TaskInstanceParameters {
    /// Of this run.
    #[param(schema_with = schema::uuid, required = false)]
    dag_run_id: Option<UuidText>,
    /// In one of these states.
    #[param(schema_with = schema::states, required = false)]
    state: Option<States>,
    /// Of this name. Without a run it is looked up in one run after the other, in their order.
    #[param(schema_with = schema::text, required = false)]
    task_id: Option<Text>,
    /// Where it is not given: `task_id` with a run, else `-id`.
    #[param(schema_with = schema::order::<TaskInstanceSort>, required = false)]
    order_by: Option<Order<TaskInstanceSort>>,
    /// How many rows at most.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// The `next_cursor` of the page before.
    #[param(schema_with = schema::task_instance_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::TaskInstance>, required = false)]
    fields: Option<Fields<schema::TaskInstance>>,
}

/// Lists tasks.
#[utoipa::path(get, path = "/api/v1/task-instances", tag = "task-instances", params(TaskInstanceParameters),
    responses((status = 200, body = schema::List<schema::TaskInstance>), ApiErrors))]
pub async fn task_instances(
    State(server): State<Arc<Server>>,
    Query(given): Query<TaskInstanceParameters>,
) -> Answer<TaskInstance> {
    let filter = TaskInstanceFilter {
        dag_run_id: given.dag_run_id.map(|id| id.0),
        states: given.state.map_or(Vec::new(), |states| states.0),
        task_id: given.task_id.map(|name| name.0),
    };
    let page = page(given.limit, given.cursor, given.order_by);
    Ok(PageResponse::new(TaskInstances::new(&server.read().await?).list(&filter, &page).await?, given.fields))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TaskLogParameters {
    /// Printed by this try.
    #[param(minimum = 0, value_type = i32, required = false)]
    try_number: Option<TryNumber>,
    /// Where it is not given, in the order of arrival.
    #[param(schema_with = schema::order::<TaskLogSort>, required = false)]
    order_by: Option<Order<TaskLogSort>>,
    /// How many rows at most.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// The `next_cursor` of the page before.
    #[param(schema_with = schema::number_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::TaskLog>, required = false)]
    fields: Option<Fields<schema::TaskLog>>,
}

/// Lists what a task has printed.
#[utoipa::path(get, path = "/api/v1/task-instances/{id}/logs", tag = "task-instances",
    params(("id" = Uuid, Path, description = "The task."), TaskLogParameters),
    responses((status = 200, body = schema::List<schema::TaskLog>), (status = 404, body = super::answer::Problem), ApiErrors))]
pub async fn task_logs(
    State(server): State<Arc<Server>>,
    Id(id): Id,
    Query(given): Query<TaskLogParameters>,
) -> Answer<TaskLog> {
    let filter = TaskLogFilter { try_number: given.try_number.map(|number| number.0) };
    let page = page(given.limit, given.cursor, given.order_by);
    let connection = server.read().await?;
    let list = TaskLogs::new(&connection).list(id, &filter, &page).await?;
    if list.items.is_empty() && TaskInstances::new(&connection).get(id).await?.is_none() {
        return Err(ApiError::not_found(format!("there is no task instance with the id {id}")));
    }
    Ok(PageResponse::new(list, given.fields))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryParameters {
    /// Of runs, or of tasks.
    #[param(value_type = schema::EntityType, required = false)]
    entity_type: Option<Kind>,
    /// Of this run or task.
    #[param(schema_with = schema::uuid, required = false)]
    entity_id: Option<UuidText>,
    /// At this moment or later.
    #[param(schema_with = schema::moment, required = false)]
    changed_at_gte: Option<Moment>,
    /// Earlier than this.
    #[param(schema_with = schema::moment, required = false)]
    changed_at_lt: Option<Moment>,
    /// Where it is not given, the newest come first.
    #[param(schema_with = schema::order::<HistorySort>, required = false)]
    order_by: Option<Order<HistorySort>>,
    /// How many rows at most.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// The `next_cursor` of the page before.
    #[param(schema_with = schema::number_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::Event>, required = false)]
    fields: Option<Fields<schema::Event>>,
}

/// Lists what has changed, in the order of writing.
#[utoipa::path(get, path = "/api/v1/history", tag = "history", params(HistoryParameters),
    responses((status = 200, body = schema::List<schema::Event>), ApiErrors))]
pub async fn history(State(server): State<Arc<Server>>, Query(given): Query<HistoryParameters>) -> Answer<Event> {
    let filter = HistoryFilter {
        entity_type: given.entity_type.map(|kind| kind.0),
        entity_id: given.entity_id.map(|id| id.0),
        changed_at_gte: given.changed_at_gte.map(|moment| moment.0),
        changed_at_lt: given.changed_at_lt.map(|moment| moment.0),
    };
    let page = page(given.limit, given.cursor, given.order_by);
    Ok(PageResponse::new(History::new(&server.read().await?).list(&filter, &page).await?, given.fields))
}
