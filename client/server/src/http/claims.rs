//! `GET /api/v1/claims` and `GET /api/v1/queues`: who works on which task, and how many tasks wait.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Server;
use super::error::{ApiError, Problem};
use super::lists::ListResult;
use super::openapi::ApiErrors;
use super::parameters::{Fields, Limit, Order, Query, Text, UuidText, list_options};
use super::response::PageResponse;
use super::schema;
use pg_workflow_client::list::{ClaimFilter, ClaimSort, HeldClaim, HeldClaims, Page, QueueFilter, QueueSort};
use pg_workflow_client::tokio_postgres::error::SqlState;
use pg_workflow_client::{Error, Queue, Queues};

const UNKNOWN: &str = "The extension in the database is older than 0.3.0.";

/// Returns the page. Databases that are not updated yet have no claims.
fn if_known<T>(page: Result<Page<T>, Error>) -> Result<Page<T>, ApiError> {
    let is_missing = |code| [&SqlState::UNDEFINED_TABLE, &SqlState::UNDEFINED_COLUMN].contains(&code);
    match page {
        Err(error) if error.code().is_some_and(is_missing) => Err(ApiError::not_found(
            "the extension in the database has no claims; update it with workflow-server migrate up".to_owned(),
        )),
        page => Ok(page?),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ClaimParameters {
    /// Of this task.
    #[param(schema_with = schema::uuid, required = false)]
    id: Option<UuidText>,
    /// Of tasks of this run.
    #[param(schema_with = schema::uuid, required = false)]
    dag_run_id: Option<UuidText>,
    /// Of tasks of queues with this name.
    #[param(schema_with = schema::text, required = false)]
    queue: Option<Text>,
    /// Of this worker.
    #[param(schema_with = schema::text, required = false)]
    worker: Option<Text>,
    /// Order; the default is `-id`, the newest task first.
    #[param(schema_with = schema::order::<ClaimSort>, required = false)]
    order_by: Option<Order<ClaimSort>>,
    /// Maximum number of rows.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the previous page.
    #[param(schema_with = schema::claim_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::Claim>, required = false)]
    fields: Option<Fields<schema::Claim>>,
}

/// Lists the tasks that workers have claimed.
#[utoipa::path(get, path = "/api/v1/claims", tag = "claims", params(ClaimParameters),
    responses((status = 200, body = schema::List<schema::Claim>), (status = 404, description = UNKNOWN, body = Problem), ApiErrors))]
pub async fn claims(State(server): State<Arc<Server>>, Query(given): Query<ClaimParameters>) -> ListResult<HeldClaim> {
    let filter = ClaimFilter {
        id: given.id.map(|id| id.0),
        dag_run_id: given.dag_run_id.map(|id| id.0),
        queue: given.queue.map(|name| name.0),
        worker: given.worker.map(|name| name.0),
    };
    let options = list_options(given.limit, given.cursor, given.order_by);
    let page = HeldClaims::new(&server.read_from_primary().await?).list(&filter, &options).await;
    Ok(PageResponse::new(if_known(page)?, given.fields))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct QueueParameters {
    /// With this name.
    #[param(schema_with = schema::text, required = false)]
    name: Option<Text>,
    /// Order; the default is `name`.
    #[param(schema_with = schema::order::<QueueSort>, required = false)]
    order_by: Option<Order<QueueSort>>,
    /// Maximum number of rows.
    #[param(schema_with = schema::limit, required = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the previous page.
    #[param(schema_with = schema::queue_cursor, required = false)]
    cursor: Option<String>,
    /// Only these fields of each row.
    #[param(schema_with = schema::fields::<schema::Queue>, required = false)]
    fields: Option<Fields<schema::Queue>>,
}

/// Lists the queues, and counts their tasks.
#[utoipa::path(get, path = "/api/v1/queues", tag = "claims", params(QueueParameters),
    responses((status = 200, body = schema::List<schema::Queue>), (status = 404, description = UNKNOWN, body = Problem), ApiErrors))]
pub async fn queues(State(server): State<Arc<Server>>, Query(given): Query<QueueParameters>) -> ListResult<Queue> {
    let filter = QueueFilter { name: given.name.map(|name| name.0) };
    let options = list_options(given.limit, given.cursor, given.order_by);
    let page = Queues::new(&server.read_from_primary().await?).list(&filter, &options).await;
    Ok(PageResponse::new(if_known(page)?, given.fields))
}
