//! `GET /api/v1/task-instances/{id}/waits-for`: the tasks that a task waits for.

use std::sync::Arc;

use axum::extract;
use chrono::{DateTime, Utc};
use pg_workflow_client::list::Page;
use pg_workflow_client::model::PendingParent;
use pg_workflow_client::{Error, TaskInstances};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Server;
use super::error::{ApiError, Problem};
use super::graph::if_known;
use super::lists::ListResult;
use super::openapi::ApiErrors;
use super::parameters::{Id, Limit, Query, UuidText, list_options};
use super::response::PageResponse;
use super::schema;

/// A task that another one waits for.
#[derive(ToSchema)]
#[schema(as = PendingParent)]
#[allow(dead_code, reason = "only a description")]
pub struct DescribedParent {
    /// Its id.
    id: Uuid,
    /// Its name, unique in the run.
    task_id: String,
    /// Its state.
    #[schema(schema_with = schema::state)]
    state: String,
    /// Time of its last change.
    since: DateTime<Utc>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitParameters {
    /// Maximum number of rows.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the previous page.
    #[param(schema_with = schema::uuid, required = false)]
    cursor: Option<UuidText>,
}

/// Lists the tasks that a task waits for, by id.
///
/// They are its parents that have not ended. There are none if it does not wait.
#[utoipa::path(get, path = "/api/v1/task-instances/{id}/waits-for", tag = "task-instances",
    params(("id" = Uuid, Path, description = "Id of the task."), WaitParameters),
    responses((status = 200, body = schema::List<DescribedParent>), (status = 404, body = Problem), ApiErrors))]
pub async fn waits_for(
    extract::State(server): extract::State<Arc<Server>>,
    Id(id): Id,
    Query(given): Query<WaitParameters>,
) -> ListResult<PendingParent> {
    let limit = list_options::<()>(given.limit, None, None).limit;
    let connection = server.read().await?;
    let after = given.cursor.map(|cursor| cursor.0);
    // One more shows whether there is another page.
    let read = TaskInstances::new(&connection).why_waiting_after(id, after, limit + 1).await;
    let mut items = match read {
        Err(Error::NotFound { .. }) => return Err(ApiError::not_found(format!("no task instance {id}"))),
        read => if_known(read)?,
    };
    let is_last = items.len() <= limit as usize;
    items.truncate(limit as usize);
    let next_cursor = items.last().filter(|_| !is_last).map(|parent| parent.id.to_string());
    Ok(PageResponse::new::<()>(Page { items, next_cursor }, None))
}
