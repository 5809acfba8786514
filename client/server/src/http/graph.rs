//! `GET /api/v1/dag-runs/{id}/graph`: the tasks of a run, and which wait for which.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use axum::extract;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use pg_workflow_client::model::Join;
use pg_workflow_client::pool::Connection;
use pg_workflow_client::tokio_postgres::error::SqlState;
use pg_workflow_client::tokio_postgres::types;
use pg_workflow_client::{DagRuns, Error, State, TriggerRule, session};
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Server;
use super::answers::PAGE_BYTES;
use super::error::{ApiError, Problem};
use super::openapi::ApiErrors;
use super::parameters::{Fields, Id, Query};
use super::schema;

/// The most that is read of the joins. PostgreSQL sends more bytes for a short name than JSON has.
const ROW_BYTES: usize = 2 * PAGE_BYTES;

/// The tasks of a run, and their dependencies.
#[derive(Serialize, ToSchema)]
pub struct Graph {
    /// The tasks, in the order of their creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<Node>, required = false)]
    nodes: Option<Vec<Node>>,
    /// One for all tasks that wait for the same ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<DescribedJoin>, required = false)]
    joins: Option<Vec<LayeredJoin>>,
}

/// Tasks that wait for the same ones, and their layer.
#[derive(Serialize)]
struct LayeredJoin {
    #[serde(flatten)]
    join: Join,
    layer: usize,
}

/// A task in a graph.
#[derive(Serialize, ToSchema)]
struct Node {
    /// Id of the task.
    id: Uuid,
    /// Task name, unique in the run.
    task_id: String,
    /// Current state.
    #[schema(schema_with = schema::state)]
    state: State,
    /// Number of tasks before it on the longest path to it; 0 if it depends on none.
    layer: usize,
}

/// Tasks that wait for the same ones.
#[derive(ToSchema)]
#[schema(as = Join)]
#[allow(dead_code, reason = "only a description")]
struct DescribedJoin {
    /// Its id.
    id: Uuid,
    /// How the parents must have ended.
    #[schema(schema_with = trigger_rule)]
    trigger_rule: String,
    /// Names of the tasks that the children wait for.
    parents: Vec<String>,
    /// Names of the tasks that wait.
    children: Vec<String>,
    /// Whether the children wait no more: they may run, have failed or are skipped.
    is_decided: bool,
    /// The layer of the children.
    layer: usize,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GraphParameters {
    /// Only these fields.
    #[param(schema_with = schema::fields::<Graph>, required = false)]
    fields: Option<Fields<Graph>>,
}

fn trigger_rule() -> Schema {
    let names = TriggerRule::ALL.map(TriggerRule::as_str);
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(names)).build().into()
}

/// Returns the tasks of a run with their dependencies.
///
/// A response of more than 4 MiB is not returned (400).
#[utoipa::path(get, path = "/api/v1/dag-runs/{id}/graph", tag = "dag-runs", params(("id" = Uuid, Path), GraphParameters),
    responses((status = 200, body = Graph), (status = 404, body = Problem), ApiErrors))]
pub async fn graph(
    extract::State(server): extract::State<Arc<Server>>,
    Id(id): Id,
    Query(given): Query<GraphParameters>,
) -> Result<Response, ApiError> {
    let wants = |field: &str| given.fields.as_ref().is_none_or(|fields| fields.0.iter().any(|name| name == field));
    let connection = server.read().await?;
    if DagRuns::new(&connection).get(id).await?.is_none() {
        return Err(ApiError::not_found(format!("no dag run {id}")));
    }
    let too_large = || ApiError::parameter("id", "is that of a run whose graph is larger than 4 MiB");
    // Before the tasks, which so include those of the joins.
    let joins = if_known(DagRuns::new(&connection).graph_within(id, ROW_BYTES).await)?.ok_or_else(too_large)?;
    let (layers, layers_of_tasks) = layers(&joins);
    let mut nodes = None;
    if wants("nodes") {
        let read = nodes.insert(read_nodes(&connection, id).await?.ok_or_else(too_large)?);
        // Tasks without a layer are in no join.
        read.iter_mut().for_each(|node| node.layer = layers_of_tasks.get(&*node.task_id).copied().unwrap_or_default());
    }
    let layered = || joins.iter().cloned().zip(layers).map(|(join, layer)| LayeredJoin { join, layer }).collect();
    let joins = wants("joins").then(layered);
    let mut json = Limited(Vec::new());
    serde_json::to_writer(&mut json, &Graph { nodes, joins }).map_err(|_| too_large())?;
    Ok(([(CONTENT_TYPE, "application/json")], json.0).into_response())
}

/// Bytes of a response: not more than those of a page.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > PAGE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Databases that are not updated yet have no dependencies.
pub fn if_known<T>(read: Result<T, Error>) -> Result<T, ApiError> {
    match read {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => Err(ApiError::not_found(
            "the extension in the database has no dependencies; update it with workflow-server migrate up".to_owned(),
        )),
        read => Ok(read?),
    }
}

/// Returns the tasks of a run, `None` if they are too large.
async fn read_nodes(connection: &Connection, run: Uuid) -> Result<Option<Vec<Node>>, Error> {
    // The other fields of each have at least 86 bytes.
    let sizes = "SELECT coalesce(sum(octet_length(task_id) + 86), 0)::bigint FROM workflow.task_instances
                 WHERE dag_run_id = $1";
    let sizes = session::once(connection, sizes, &[(&run, types::Type::UUID)]).await?;
    let bytes: i64 = sizes.first().map_or(Ok(0), |row| row.try_get(0))?;
    if usize::try_from(bytes).unwrap_or_default() > PAGE_BYTES {
        return Ok(None);
    }
    let sql = "SELECT id, task_id, state FROM workflow.task_instances WHERE dag_run_id = $1 ORDER BY id";
    let rows = session::once(connection, sql, &[(&run, types::Type::UUID)]).await?;
    let node = |row: &pg_workflow_client::tokio_postgres::Row| {
        let state: &str = row.try_get(2)?;
        let state = state.parse().map_err(|_| Error::Unknown(format!("the state \"{state}\"")))?;
        Ok(Node { id: row.try_get(0)?, task_id: row.try_get(1)?, state, layer: 0 })
    };
    rows.iter().map(node).collect::<Result<_, Error>>().map(Some)
}

/// Returns the layer of the children of each join, and of each task of a join: in linear time and without recursion. A
/// task follows when all its parents have a layer.
fn layers(joins: &[Join]) -> (Vec<usize>, HashMap<&str, usize>) {
    let mut waits_in: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut is_child = HashSet::new();
    for (place, join) in joins.iter().enumerate() {
        join.parents.iter().for_each(|parent| waits_in.entry(parent).or_default().push(place));
        is_child.extend(join.children.iter().map(String::as_str));
    }
    let mut missing: Vec<usize> = joins.iter().map(|join| join.parents.len()).collect();
    let mut layers = vec![0; joins.len()];
    let mut done: Vec<(&str, usize)> =
        waits_in.keys().filter(|parent| !is_child.contains(*parent)).map(|parent| (*parent, 0)).collect();
    // Joins whose parents were all deleted.
    let orphans = joins.iter().filter(|join| join.parents.is_empty()).flat_map(|join| &join.children);
    done.extend(orphans.map(|child| (child.as_str(), 0)));
    let mut next = 0;
    while let Some((task, layer)) = done.get(next).copied() {
        next += 1;
        for place in waits_in.get(task).into_iter().flatten().copied() {
            missing[place] -= 1;
            layers[place] = layers[place].max(layer + 1);
            if missing[place] == 0 {
                done.extend(joins[place].children.iter().map(|child| (child.as_str(), layers[place])));
            }
        }
    }
    (layers, done.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layers_are_the_longest_paths() {
        let join = |parents: &[&str], children: &[&str]| -> Join {
            serde_json::from_value(json!({"id": Uuid::nil(), "trigger_rule": "all_done", "parents": parents,
                "children": children, "is_decided": false}))
            .unwrap()
        };
        // "c" is one step from "a", but three by way of "b" and "d". The parents of "e" were deleted.
        let joins = [
            join(&["a", "d"], &["c"]),
            join(&["b"], &["d"]),
            join(&["a"], &["b"]),
            join(&[], &["e"]),
            join(&["e"], &["f"]),
        ];
        let (of_joins, of_tasks) = layers(&joins);
        assert_eq!(of_joins, [3, 2, 1, 0, 1]);
        let expected = [("c", 3), ("f", 1), ("a", 0), ("b", 1), ("d", 2), ("e", 0)];
        assert_eq!(of_tasks, HashMap::from(expected));
    }
}
