//! Checking the arguments of functions: null where it makes no sense, names that do not exist.

use crate::entity::EntityType;
use crate::errors;
use crate::ffi::jsonb::Jsonb;
use pg_workflow_state_machine::State;
use serde_json::json;

pub fn entity_type(name: Option<&str>) -> EntityType {
    name.and_then(EntityType::parse).unwrap_or_else(|| {
        let wrong = match name {
            Some(name) => format!("is unknown: \"{name}\""),
            None => "is null".to_owned(),
        };
        errors::invalid_argument("entity_type", &json!(name), &wrong, "It is dag_run or task_instance.")
    })
}

pub fn state(argument: &str, name: Option<&str>) -> State {
    name.and_then(|name| name.parse().ok()).unwrap_or_else(|| errors::unknown_state(argument, name))
}

pub fn not_null<T>(argument: &str, value: Option<T>) -> T {
    value.unwrap_or_else(|| errors::invalid_argument(argument, &json!(null), "is null", "Give a value."))
}

pub fn metadata(value: Option<Jsonb>) -> Jsonb {
    let metadata = not_null("metadata", value);
    if !metadata.is_object() {
        let hint = "Give metadata like '{\"reason\": \"worker lost\"}', or leave it out.";
        errors::invalid_argument("metadata", &json!(null), "is not a JSON object", hint);
    }
    metadata
}
