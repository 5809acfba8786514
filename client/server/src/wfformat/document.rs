//! The JSON of a trace. Other fields are ignored.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;

use super::Problem;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    pub name: Option<String>,
    pub description: Option<String>,
    pub schema_version: Option<String>,
    pub created_at: Option<String>,
    pub workflow: Workflow,
}

#[derive(Deserialize)]
pub struct Workflow {
    pub specification: Specification,
    #[serde(default, deserialize_with = "null_as_default")]
    pub execution: Execution,
}

#[derive(Deserialize)]
pub struct Specification {
    pub tasks: Vec<SpecifiedTask>,
}

#[derive(Deserialize)]
pub struct SpecifiedTask {
    pub id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub parents: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub children: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    pub executed_at: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub tasks: Vec<ExecutedTask>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutedTask {
    pub id: String,
    pub runtime_in_seconds: Option<f64>,
}

/// The format before version 1.5.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OlderDocument {
    schema_version: Option<String>,
    workflow: OlderWorkflow,
}

#[derive(Deserialize)]
struct OlderWorkflow {
    #[serde(rename = "tasks", alias = "jobs")]
    _tasks: IgnoredAny,
    specification: Option<IgnoredAny>,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Document {
    pub fn parse(json: &[u8]) -> Result<Document, Problem> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let document = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            let error = error.into_inner();
            match error.classify() {
                Category::Data => explain_mismatch(json, path, &error),
                _ => Problem::NotJson(error),
            }
        })?;
        reader.end().map_err(Problem::NotJson)?;
        Ok(document)
    }
}

fn explain_mismatch(json: &[u8], path: String, error: &serde_json::Error) -> Problem {
    match serde_json::from_slice::<OlderDocument>(json) {
        Ok(older) if older.workflow.specification.is_none() => {
            Problem::Older(older.schema_version.map(|version| format!(" ({version})")).unwrap_or_default())
        }
        _ => {
            let path = if path == "." { "the top".to_owned() } else { path };
            Problem::NotWfFormat { path, message: error.to_string() }
        }
    }
}
