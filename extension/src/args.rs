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

pub fn json_object(argument: &str, value: Option<Jsonb>) -> Jsonb {
    let object = not_null(argument, value);
    if !object.is_object() {
        let hint = format!("Give {argument} like '{{\"reason\": \"worker lost\"}}', or leave it out.");
        errors::invalid_argument(argument, &json!(null), "is not a JSON object", &hint);
    }
    object
}

pub fn check_task_id(argument: &str, task_id: &str) {
    if task_id.trim().is_empty() || task_id.chars().count() > 500 {
        let wrong = if task_id.trim().is_empty() { "has an empty name" } else { "has a name that is too long" };
        let shown: String = task_id.chars().take(500).collect();
        let hint = "A task_id has 1 to 500 characters, at least one of them visible.";
        errors::invalid_argument(argument, &json!(shown), wrong, hint);
    }
}

pub fn check_max_tries(max_tries: i32) -> i32 {
    if max_tries < 0 {
        errors::invalid_argument("max_tries", &json!(max_tries), "is negative", "Give 0 or more.");
    }
    max_tries
}
