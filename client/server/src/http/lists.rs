//! `GET /api/v1/…`: lists.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Server;
use super::error::ApiError;
use super::openapi::ApiErrors;
use super::parameters::{
    EntityKind, Fields, Id, Levels, Limit, Order, Query, States, Text, Timestamp, TryNumber, UuidText, list_options,
};
use super::response::PageResponse;
use super::schema;
use pg_workflow_client::event::Event;
use pg_workflow_client::list::{
    DagFilter, DagRunFilter, DagRunSort, DagSort, HistoryFilter, HistorySort, TaskInstanceFilter, TaskInstanceSort,
    TaskLogFilter, TaskLogSort,
};
use pg_workflow_client::model::{Dag, DagRun, TaskInstance, TaskLog};
use pg_workflow_client::{DagRuns, Dags, History, TaskInstances, TaskLogs};

pub type ListResult<T> = Result<PageResponse<T>, ApiError>;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DagParameters {
    /// With this name.
    #[param(schema_with = schema::text, required = false)]
    name: Option<Text>,
    /// With a name that starts with this text.
    #[param(schema_with = schema::text, required = false)]
    name_prefix: Option<Text>,
    /// With this tag.
    #[param(schema_with = schema::text, required = false)]
    tag: Option<Text>,
    /// Paused or not.
    paused: Option<bool>,
    /// Order; the default is `-id`, the newest first.
    #[param(schema_with = schema::order::<DagSort>, required = false)]
    order_by: Option<Order<DagSort>>,
    /// Maximum number of rows.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the previous page.
    #[param(schema_with = schema::dag_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::Dag>, required = false)]
    fields: Option<Fields<schema::Dag>>,
}

/// Lists DAGs.
#[utoipa::path(get, path = "/api/v1/dags", tag = "dags", params(DagParameters),
    responses((status = 200, body = schema::List<schema::Dag>), ApiErrors))]
pub async fn dags(State(server): State<Arc<Server>>, Query(given): Query<DagParameters>) -> ListResult<Dag> {
    let filter = DagFilter {
        name: given.name.map(|name| name.0),
        name_prefix: given.name_prefix.map(|prefix| prefix.0),
        tag: given.tag.map(|tag| tag.0),
        paused: given.paused,
    };
    let options = list_options(given.limit, given.cursor, given.order_by);
    Ok(PageResponse::new(Dags::new(&server.read().await?).list(&filter, &options).await?, given.fields))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DagRunParameters {
    /// Runs of this DAG.
    #[param(schema_with = schema::uuid, required = false)]
    dag_id: Option<UuidText>,
    /// In one of these states.
    #[param(schema_with = schema::states, required = false)]
    state: Option<States>,
    /// With this execution date or a later one.
    #[param(schema_with = schema::timestamp, required = false)]
    execution_date_gte: Option<Timestamp>,
    /// With an earlier execution date.
    #[param(schema_with = schema::timestamp, required = false)]
    execution_date_lt: Option<Timestamp>,
    /// Order; the default is `-execution_date` with a DAG or a date, otherwise `-id`.
    #[param(schema_with = schema::order::<DagRunSort>, required = false)]
    order_by: Option<Order<DagRunSort>>,
    /// Maximum number of rows.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the previous page.
    #[param(schema_with = schema::dag_run_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::DagRun>, required = false)]
    fields: Option<Fields<schema::DagRun>>,
}

/// Lists runs.
#[utoipa::path(get, path = "/api/v1/dag-runs", tag = "dag-runs", params(DagRunParameters),
    responses((status = 200, body = schema::List<schema::DagRun>), ApiErrors))]
pub async fn dag_runs(State(server): State<Arc<Server>>, Query(given): Query<DagRunParameters>) -> ListResult<DagRun> {
    let filter = DagRunFilter {
        dag_id: given.dag_id.map(|id| id.0),
        states: given.state.map_or(Vec::new(), |states| states.0),
        execution_date_gte: given.execution_date_gte.map(|time| time.0),
        execution_date_lt: given.execution_date_lt.map(|time| time.0),
    };
    let options = list_options(given.limit, given.cursor, given.order_by);
    Ok(PageResponse::new(DagRuns::new(&server.read().await?).list(&filter, &options).await?, given.fields))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TaskInstanceParameters {
    /// Tasks of this run.
    #[param(schema_with = schema::uuid, required = false)]
    dag_run_id: Option<UuidText>,
    /// In one of these states.
    #[param(schema_with = schema::states, required = false)]
    state: Option<States>,
    /// With this task name. Without a run, each run is searched, in the order of the list.
    #[param(schema_with = schema::text, required = false)]
    task_id: Option<Text>,
    /// Order; the default is `task_id` with a run, otherwise `-id`.
    #[param(schema_with = schema::order::<TaskInstanceSort>, required = false)]
    order_by: Option<Order<TaskInstanceSort>>,
    /// Maximum number of rows.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the previous page.
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
) -> ListResult<TaskInstance> {
    let filter = TaskInstanceFilter {
        dag_run_id: given.dag_run_id.map(|id| id.0),
        states: given.state.map_or(Vec::new(), |states| states.0),
        task_id: given.task_id.map(|name| name.0),
    };
    let options = list_options(given.limit, given.cursor, given.order_by);
    Ok(PageResponse::new(TaskInstances::new(&server.read().await?).list(&filter, &options).await?, given.fields))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TaskLogParameters {
    /// Printed by this attempt.
    #[param(minimum = 0, value_type = i32, required = false)]
    try_number: Option<TryNumber>,
    /// Of one of these levels.
    #[param(schema_with = schema::levels, required = false)]
    level: Option<Levels>,
    /// Order; the default is the order of arrival.
    #[param(schema_with = schema::order::<TaskLogSort>, required = false)]
    order_by: Option<Order<TaskLogSort>>,
    /// Maximum number of rows.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the previous page.
    #[param(schema_with = schema::number_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::TaskLog>, required = false)]
    fields: Option<Fields<schema::TaskLog>>,
}

/// Lists the log of a task.
#[utoipa::path(get, path = "/api/v1/task-instances/{id}/logs", tag = "task-instances",
    params(("id" = Uuid, Path, description = "Id of the task."), TaskLogParameters),
    responses((status = 200, body = schema::List<schema::TaskLog>), (status = 404, body = super::error::Problem), ApiErrors))]
pub async fn task_logs(
    State(server): State<Arc<Server>>,
    Id(id): Id,
    Query(given): Query<TaskLogParameters>,
) -> ListResult<TaskLog> {
    let filter = TaskLogFilter {
        try_number: given.try_number.map(|number| number.0),
        levels: given.level.map_or(Vec::new(), |levels| levels.0),
    };
    let options = list_options(given.limit, given.cursor, given.order_by);
    let connection = server.read().await?;
    let page = TaskLogs::new(&connection).list(id, &filter, &options).await?;
    if page.items.is_empty() && TaskInstances::new(&connection).get(id).await?.is_none() {
        return Err(ApiError::not_found(format!("no task instance {id}")));
    }
    Ok(PageResponse::new(page, given.fields))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryParameters {
    /// Events of runs or of tasks.
    #[param(value_type = schema::EntityType, required = false)]
    entity_type: Option<EntityKind>,
    /// Events of this run or task.
    #[param(schema_with = schema::uuid, required = false)]
    entity_id: Option<UuidText>,
    /// Events of this run, and of its tasks that exist.
    #[param(schema_with = schema::uuid, required = false)]
    dag_run_id: Option<UuidText>,
    /// Events of runs and tasks of this DAG. Combine it with times if there are millions of others.
    #[param(schema_with = schema::uuid, required = false)]
    dag_id: Option<UuidText>,
    /// Events by this login role. Combine it with times if there are millions of others.
    #[param(schema_with = schema::text, required = false)]
    actor: Option<Text>,
    /// At this time or later.
    #[param(schema_with = schema::timestamp, required = false)]
    changed_at_gte: Option<Timestamp>,
    /// Before this time.
    #[param(schema_with = schema::timestamp, required = false)]
    changed_at_lt: Option<Timestamp>,
    /// Order; the default is `-id`, the newest first.
    #[param(schema_with = schema::order::<HistorySort>, required = false)]
    order_by: Option<Order<HistorySort>>,
    /// Maximum number of rows.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the previous page.
    #[param(schema_with = schema::number_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::Event>, required = false)]
    fields: Option<Fields<schema::Event>>,
}

/// Lists events in the order of writing.
#[utoipa::path(get, path = "/api/v1/history", tag = "history", params(HistoryParameters),
    responses((status = 200, body = schema::List<schema::Event>), ApiErrors))]
pub async fn history(State(server): State<Arc<Server>>, Query(given): Query<HistoryParameters>) -> ListResult<Event> {
    let filter = HistoryFilter {
        entity_type: given.entity_type.map(|kind| kind.0),
        entity_id: given.entity_id.map(|id| id.0),
        dag_run_id: given.dag_run_id.map(|id| id.0),
        dag_id: given.dag_id.map(|id| id.0),
        actor: given.actor.map(|name| name.0),
        changed_at_gte: given.changed_at_gte.map(|time| time.0),
        changed_at_lt: given.changed_at_lt.map(|time| time.0),
    };
    let options = list_options(given.limit, given.cursor, given.order_by);
    Ok(PageResponse::new(History::new(&server.read().await?).list(&filter, &options).await?, given.fields))
}
