//! Checking the arguments of functions.

use crate::entity::EntityType;
use crate::errors;
use crate::ffi::jsonb::Jsonb;
use crate::fields;
use pg_workflow_state_machine::State;
use pgrx::Array;
use serde_json::json;

pub fn entity_type(name: Option<&str>) -> EntityType {
    name.and_then(EntityType::parse)
        .unwrap_or_else(|| errors::unknown_name("entity_type", name, "Set entity_type to dag_run or task_instance."))
}

pub fn state(argument: &str, name: Option<&str>) -> State {
    name.and_then(|name| name.parse().ok()).unwrap_or_else(|| errors::unknown_state(argument, name))
}

pub fn not_null<T>(argument: &str, value: Option<T>) -> T {
    value.unwrap_or_else(|| {
        errors::invalid_argument(argument, &json!(null), "must not be null", &format!("Set {argument} to a value."))
    })
}

pub fn json_object(argument: &str, value: Option<Jsonb>) -> Jsonb {
    let object = not_null(argument, value);
    if !object.is_object() {
        let hint = format!("Set {argument} to an object such as '{{\"reason\": \"worker lost\"}}', or omit it.");
        errors::invalid_argument(argument, &json!(null), "must be a JSON object", &hint);
    }
    fields::check_jsonb(argument, object);
    object
}

/// Checks a name.
pub fn name<'a>(argument: &str, name: Option<&'a str>) -> &'a str {
    const MOST: usize = 250;
    const HINT: &str = "Use 1 to 250 characters, at least one of them visible.";
    let name = name.unwrap_or_else(|| errors::invalid_argument(argument, &json!(null), "must not be null", HINT));
    if name.trim().is_empty() {
        errors::invalid_argument(argument, &json!(errors::cut(name)), "must not be blank", HINT);
    }
    if name.chars().count() > MOST {
        errors::invalid_argument(argument, &json!(errors::cut(name)), "must not be longer than 250 characters", HINT);
    }
    name
}

/// The longest array that a call may pass.
const MAX_ITEMS: usize = 1_000_000;

/// Checks an array before anything copies its elements.
pub fn array<'a, T>(argument: &str, array: Option<Array<'a, T>>) -> Array<'a, T> {
    let array = not_null(argument, array);
    if array.len() > MAX_ITEMS {
        errors::too_many(argument, array.len(), MAX_ITEMS);
    }
    array
}

/// Checks a task name, which is in the argument or column `argument`.
pub fn check_task_id(argument: &str, task_id: &str) {
    let is_blank = task_id.trim().is_empty();
    if is_blank || task_id.chars().count() > 500 {
        let rule = if is_blank { "must not be blank" } else { "must not be longer than 500 characters" };
        let detail = json!({ "argument": argument, "value": errors::cut(task_id) });
        errors::invalid(&format!("task_id {rule}"), &detail, "Use 1 to 500 characters, at least one of them visible.");
    }
}

pub fn check_max_tries(max_tries: i32) -> i32 {
    if max_tries < 0 {
        errors::invalid_argument("max_tries", &json!(max_tries), "must not be negative", "Set max_tries to 0 or more.");
    }
    max_tries
}
