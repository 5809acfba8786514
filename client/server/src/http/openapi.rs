//! `GET /openapi.json`: the API as its types describe it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use utoipa::openapi::OpenApi as Description;
use utoipa::{IntoResponses, OpenApi};

use super::answer::Problem;
use super::parameters::Query;
use super::rows::NoParameters;
use super::{Server, events};

/// What every endpoint below `/api` may answer too.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it only describes")]
pub enum ApiErrors {
    /// A parameter makes no sense.
    #[response(status = 400)]
    Bad(Problem),
    /// The database cannot be asked, or did not answer in time.
    #[response(status = 503)]
    Unavailable(Problem),
}

#[derive(OpenApi)]
#[openapi(paths(events::events))]
struct Stream;

pub async fn openapi(State(server): State<Arc<Server>>, _: Query<NoParameters>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], server.openapi.clone())
}

/// Completes what the endpoints say of themselves.
pub fn describe(endpoints: Description, has_token: bool) -> String {
    let mut description = json!(endpoints);
    let events = json!(Stream::openapi());
    description["info"] = json!({
        "title": "workflow-server",
        "version": env!("CARGO_PKG_VERSION"),
        "license": { "name": "PostgreSQL", "identifier": "PostgreSQL" },
        "description": "DAGs, runs, tasks, their history and their events, read-only. \
            /api/v1/events is a stream that does not end, so it is described under components/pathItems/events.",
    });
    description["components"]["pathItems"] = json!({ "events": events["paths"]["/api/v1/events"] });
    describe_answers(&mut description["paths"]);
    describe_answers(&mut description["components"]["pathItems"]);
    partial_rows(&mut description);
    lists_with_commas(&mut description);
    if has_token {
        description["components"]["securitySchemes"] = json!({ "token": { "type": "http", "scheme": "bearer" } });
        for (path, item) in description["paths"].as_object_mut().into_iter().flatten() {
            if path != "/health" {
                item["get"]["security"] = json!([{ "token": [] }]);
                let problem = item["get"]["responses"]["400"]["content"].clone();
                item["get"]["responses"]["401"] =
                    json!({ "description": "The token is missing or wrong.", "content": problem });
            }
        }
    }
    description.to_string()
}

/// OpenAPI wants a word about each answer.
fn describe_answers(paths: &mut Value) {
    let paths = paths.as_object_mut().into_iter().flatten();
    let answers = paths.filter_map(|(_, item)| item.pointer_mut("/get/responses")?.as_object_mut()).flatten();
    for (status, answer) in answers.filter(|(_, answer)| answer["description"].as_str().is_none_or(str::is_empty)) {
        answer["description"] = json!(match status.as_str() {
            "200" => "What was asked for.",
            "404" => "There is none with this id.",
            _ => "It is not as it should be.",
        });
    }
}

/// Parameters with several values have commas between them, rather than come several times.
fn lists_with_commas(description: &mut Value) {
    let paths = description["paths"].as_object_mut().into_iter().flatten();
    let parameters = paths.filter_map(|(_, item)| item.pointer_mut("/get/parameters")?.as_array_mut()).flatten();
    for parameter in parameters.filter(|parameter| parameter["schema"]["type"] == "array") {
        parameter["style"] = json!("form");
        parameter["explode"] = json!(false);
    }
}

/// In a list, `fields` may leave out any field: rows there have the schema of single ones, with nothing required.
fn partial_rows(description: &mut Value) {
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
