//! `GET /openapi.json`: the description of the API, generated from its types.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use utoipa::openapi::OpenApi as Description;
use utoipa::{IntoResponses, OpenApi};

use super::access::PUBLIC_PATHS;
use super::error::{PROBLEM_JSON, Problem};
use super::parameters::Query;
use super::rows::NoParameters;
use super::{Server, events, schema};

/// The errors of every endpoint below `/api`.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only a description")]
pub enum ApiErrors {
    /// A parameter is invalid.
    #[response(status = 400)]
    Bad(Problem),
    /// The database is unavailable or too slow.
    #[response(status = 503)]
    Unavailable(Problem),
}

#[derive(OpenApi)]
#[openapi(paths(events::events))]
struct Stream;

pub async fn openapi(State(server): State<Arc<Server>>, _: Query<NoParameters>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], server.openapi.clone())
}

/// Completes the description that the endpoints generate.
pub fn describe(endpoints: Description, has_token: bool) -> String {
    let mut description = json!(endpoints);
    let events = json!(Stream::openapi());
    description["info"] = json!({
        "title": "workflow-server",
        "version": env!("CARGO_PKG_VERSION"),
        "license": { "name": "PostgreSQL", "identifier": "PostgreSQL" },
        "description": "Read-only access to DAGs, runs, tasks, their history and their events. \
            /api/v1/events is an endless stream.",
    });
    description["paths"]["/api/v1/events"] = events["paths"]["/api/v1/events"].clone();
    description["components"]["schemas"]["State"] = json!(schema::state_names());
    describe_responses(&mut description["paths"]);
    name_problems(&mut description["paths"]);
    add_partial_rows(&mut description);
    separate_lists_by_commas(&mut description);
    if has_token {
        description["components"]["securitySchemes"] = json!({ "token": { "type": "http", "scheme": "bearer" } });
        for (path, item) in description["paths"].as_object_mut().into_iter().flatten() {
            if !PUBLIC_PATHS.contains(&path.as_str()) {
                item["get"]["security"] = json!([{ "token": [] }]);
                let problem = item["get"]["responses"]["400"]["content"].clone();
                item["get"]["responses"]["401"] =
                    json!({ "description": "The token is missing or wrong.", "content": problem });
            }
        }
    }
    description.to_string()
}

/// All responses, each with its status.
fn responses(paths: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    let paths = paths.as_object_mut().into_iter().flatten();
    paths.filter_map(|(_, item)| item.pointer_mut("/get/responses")?.as_object_mut()).flatten()
}

/// OpenAPI requires a description of each response.
fn describe_responses(paths: &mut Value) {
    let is_undescribed = |response: &Value| response["description"].as_str().is_none_or(str::is_empty);
    for (status, response) in responses(paths).filter(|(_, response)| is_undescribed(response)) {
        response["description"] = json!(match status.as_str() {
            "200" => "Success.",
            "404" => "No such id.",
            _ => "Error.",
        });
    }
}

/// Errors have a content type of their own.
fn name_problems(paths: &mut Value) {
    for (_, response) in responses(paths).filter(|(status, _)| status.starts_with(['4', '5'])) {
        let Some(content) = response["content"].as_object_mut() else { continue };
        if let Some(problem) = content.remove("application/json") {
            content.insert(PROBLEM_JSON.to_owned(), problem);
        }
    }
}

/// The values of a parameter with several are separated by commas: repeating it is accepted, too, but one way is described.
fn separate_lists_by_commas(description: &mut Value) {
    let paths = description["paths"].as_object_mut().into_iter().flatten();
    let parameters = paths.filter_map(|(_, item)| item.pointer_mut("/get/parameters")?.as_array_mut()).flatten();
    for parameter in parameters.filter(|parameter| parameter["schema"]["type"] == "array") {
        parameter["style"] = json!("form");
        parameter["explode"] = json!(false);
    }
}

/// In a list, `fields` can omit any field: the rows have the schema of single rows, with no field required.
fn add_partial_rows(description: &mut Value) {
    let schemas = &mut description["components"]["schemas"];
    let lists: Vec<String> = schemas
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .filter(|name| name.starts_with("List_"))
        .collect();
    for list in lists {
        let row = list.trim_start_matches("List_");
        let mut partial = schemas[row].clone();
        if let Some(object) = partial.as_object_mut() {
            object.remove("required");
        }
        schemas[&list]["properties"]["items"]["items"] =
            json!({ "$ref": format!("#/components/schemas/Partial{row}") });
        schemas[format!("Partial{row}")] = partial;
    }
}
