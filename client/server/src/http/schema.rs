//! Pieces of `/openapi.json` that the types do not say by themselves: states, limits, forms of texts.

mod rows;

use pg_workflow_client::State;
use utoipa::PartialSchema;
use utoipa::openapi::schema::{ArrayBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{Object, RefOr};

use pg_workflow_client::list::{OrderBy, Sort};

pub use rows::{Dag, DagRun, EntityType, Event, List, StateCounts, TaskInstance, TaskLog};

/// Names have 500 characters at most.
pub const LONGEST_TEXT: usize = 500;
pub const GREATEST_LIMIT: u32 = 1000;
pub const USUAL_LIMIT: u32 = 50;

const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> Object {
    let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(values)).build()
}

fn some_of(items: Object) -> Schema {
    ArrayBuilder::new().items(items).min_items(Some(1)).unique_items(true).build().into()
}

fn form(pattern: String) -> Schema {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).pattern(Some(pattern)).build().into()
}

pub fn state() -> Schema {
    texts(State::ALL.map(State::as_str)).into()
}

pub fn state_or_null() -> Schema {
    let types = SchemaType::Array(vec![Type::String, Type::Null]);
    let values = State::ALL.iter().map(|state| serde_json::Value::from(state.as_str()));
    let values: Vec<serde_json::Value> = values.chain([serde_json::Value::Null]).collect();
    ObjectBuilder::new().schema_type(types).enum_values(Some(values)).build().into()
}

pub fn states() -> Schema {
    some_of(texts(State::ALL.map(State::as_str)))
}

pub fn text() -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .min_length(Some(1))
        .max_length(Some(LONGEST_TEXT))
        .pattern(Some("^[^\\u0000\\ufffd]+$"))
        .build()
        .into()
}

pub fn limit() -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Integer))
        .minimum(Some(1))
        .maximum(Some(GREATEST_LIMIT))
        .default(Some(USUAL_LIMIT.into()))
        .build()
        .into()
}

pub fn moment() -> Schema {
    let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).format(Some(format)).build().into()
}

pub fn uuid() -> Schema {
    let format = SchemaFormat::KnownFormat(KnownFormat::Uuid);
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).format(Some(format)).build().into()
}

pub fn order<S: Sort>() -> Schema {
    texts(OrderBy::<S>::names().iter().map(String::as_str)).into()
}

/// Any of the fields of a type.
pub fn fields<T: PartialSchema>() -> Schema {
    let names = field_names::<T>();
    some_of(texts(names.iter().map(String::as_str)))
}

pub fn field_names<T: PartialSchema>() -> Vec<String> {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Cursors of DAGs, runs, tasks, and of what has numbers: see `list::cursor`.
pub fn dag_cursor() -> Schema {
    form(format!(r"^{UUID}\.[^\u0000]*$"))
}

pub fn dag_run_cursor() -> Schema {
    form(format!(r"^-?[0-9]{{1,18}}\.{UUID}$"))
}

pub fn task_instance_cursor() -> Schema {
    form(format!(r"^{UUID}\.{UUID}\.[^\u0000]*$"))
}

pub fn number_cursor() -> Schema {
    form("^-?[0-9]{1,18}$".to_owned())
}
