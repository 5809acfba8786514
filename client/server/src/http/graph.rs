//! `GET /api/v1/dag-runs/{id}/graph`: the tasks of a run, and which wait for which.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract;
use pg_workflow_client::model::Join;
use pg_workflow_client::pool::Connection;
use pg_workflow_client::tokio_postgres::error::SqlState;
use pg_workflow_client::tokio_postgres::types;
use pg_workflow_client::{DagRuns, Error, State, TriggerRule, session};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use uuid::Uuid;

use super::Server;
use super::answers::PAGE_BYTES;
use super::error::{ApiError, Problem};
use super::openapi::ApiErrors;
use super::parameters::{Id, Query};
use super::rows::NoParameters;
use super::schema;

/// The tasks of a run, and their dependencies.
#[derive(Serialize, ToSchema)]
pub struct Graph {
    /// The tasks, in the order of their creation.
    nodes: Vec<Node>,
    /// One for all tasks that wait for the same ones.
    #[schema(value_type = Vec<DescribedJoin>)]
    joins: Vec<Join>,
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
}

fn trigger_rule() -> Schema {
    let names = TriggerRule::ALL.map(TriggerRule::as_str);
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(names)).build().into()
}

/// Returns the tasks of a run with their dependencies.
///
/// A graph of more than 4 MiB is not returned (400).
#[utoipa::path(get, path = "/api/v1/dag-runs/{id}/graph", tag = "dag-runs", params(("id" = Uuid, Path)),
    responses((status = 200, body = Graph), (status = 404, body = Problem), ApiErrors))]
pub async fn graph(
    extract::State(server): extract::State<Arc<Server>>,
    Id(id): Id,
    _: Query<NoParameters>,
) -> Result<Json<Graph>, ApiError> {
    let connection = server.read().await?;
    if DagRuns::new(&connection).get(id).await?.is_none() {
        return Err(ApiError::not_found(format!("no dag run {id}")));
    }
    let too_large = || ApiError::parameter("id", "is that of a run whose graph is larger than 4 MiB");
    // Before the tasks, which so include those of the joins.
    let joins = if_known(DagRuns::new(&connection).graph_within(id, PAGE_BYTES).await)?.ok_or_else(too_large)?;
    let mut nodes = read_nodes(&connection, id).await?.ok_or_else(too_large)?;
    set_layers(&mut nodes, &joins);
    Ok(Json(Graph { nodes, joins }))
}

/// Databases that are not updated yet have no dependencies.
fn if_known<T>(read: Result<T, Error>) -> Result<T, ApiError> {
    match read {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => Err(ApiError::not_found(
            "the extension in the database has no dependencies; update it with workflow-server migrate up".to_owned(),
        )),
        read => Ok(read?),
    }
}

/// Returns the tasks of a run, `None` if they are too large.
async fn read_nodes(connection: &Connection, run: Uuid) -> Result<Option<Vec<Node>>, Error> {
    // With 100 bytes for the other fields of each.
    let sizes = "SELECT coalesce(sum(octet_length(task_id) + 100), 0)::bigint FROM workflow.task_instances
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

/// Computes the layers, in linear time and without recursion: a task follows when all its parents have a layer.
fn set_layers(nodes: &mut [Node], joins: &[Join]) {
    let places: HashMap<&str, usize> =
        nodes.iter().enumerate().map(|(place, node)| (node.task_id.as_str(), place)).collect();
    // A task that was created since the joins were read can be missing.
    let places_of = |names: &[String]| -> Vec<usize> {
        names.iter().filter_map(|name| places.get(name.as_str()).copied()).collect()
    };
    let parents: Vec<Vec<usize>> = joins.iter().map(|join| places_of(&join.parents)).collect();
    let children: Vec<Vec<usize>> = joins.iter().map(|join| places_of(&join.children)).collect();
    let mut is_child = vec![false; nodes.len()];
    children.iter().flatten().for_each(|place| is_child[*place] = true);
    let mut joins_of = vec![Vec::new(); nodes.len()];
    for (join, parents) in parents.iter().enumerate() {
        parents.iter().for_each(|place| joins_of[*place].push(join));
    }
    let mut missing: Vec<usize> = parents.iter().map(Vec::len).collect();
    let mut layers = vec![0; joins.len()];
    let mut done: Vec<usize> = (0..nodes.len()).filter(|place| !is_child[*place]).collect();
    // Joins whose parents were all deleted.
    done.extend(missing.iter().zip(&children).filter(|(count, _)| **count == 0).flat_map(|(_, places)| places));
    let mut next = 0;
    while let Some(place) = done.get(next).copied() {
        next += 1;
        for join in &joins_of[place] {
            missing[*join] -= 1;
            layers[*join] = layers[*join].max(nodes[place].layer + 1);
            if missing[*join] == 0 {
                children[*join].iter().for_each(|child| nodes[*child].layer = layers[*join]);
                done.extend(&children[*join]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layers_are_the_longest_paths() {
        let node = |name: &str| Node { id: Uuid::nil(), task_id: name.to_owned(), state: State::Queued, layer: 0 };
        let join = |parents: &[&str], children: &[&str]| -> Join {
            serde_json::from_value(json!({"id": Uuid::nil(), "trigger_rule": "all_done", "parents": parents,
                "children": children, "is_decided": false}))
            .unwrap()
        };
        // "c" is one step from "a", but three by way of "b" and "d"; "gone" was deleted.
        let joins = [
            join(&["a", "d"], &["c"]),
            join(&["b"], &["d"]),
            join(&["a"], &["b"]),
            join(&[], &["e"]),
            join(&["e", "gone"], &["f"]),
        ];
        let mut nodes: Vec<Node> = ["c", "f", "a", "b", "d", "e", "alone"].map(node).into();
        set_layers(&mut nodes, &joins);
        let layers: Vec<(&str, usize)> = nodes.iter().map(|node| (&*node.task_id, node.layer)).collect();
        assert_eq!(layers, [("c", 3), ("f", 1), ("a", 0), ("b", 1), ("d", 2), ("e", 0), ("alone", 0)]);
    }
}
