//! Schemas in `/openapi.json` that the types do not define: states, limits, patterns.

mod rows;

use pg_workflow_client::{LogLevel, State};
use utoipa::PartialSchema;
use utoipa::openapi::schema::{
    ArrayBuilder, ArrayItems, KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{Object, Ref, RefOr};

use pg_workflow_client::list::{OrderBy, Sort};

pub use rows::{Claim, Dag, DagRun, EntityType, Event, List, Queue, StateCounts, TaskInstance, TaskLog};

/// Maximum length of a name, in characters.
pub const MAX_TEXT: usize = 500;
pub const MAX_LIMIT: u32 = 1000;
pub const DEFAULT_LIMIT: u32 = 50;

const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

fn enum_of<'a>(values: impl IntoIterator<Item = &'a str>) -> Object {
    let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(values)).build()
}

fn list_of(items: impl Into<ArrayItems>) -> Schema {
    ArrayBuilder::new().items(items).min_items(Some(1)).unique_items(true).build().into()
}

fn matching(pattern: String) -> Schema {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).pattern(Some(pattern)).build().into()
}

/// The schema of all states, to which the others refer: generators make one type of it.
pub fn state_names() -> Schema {
    enum_of(State::ALL.map(State::as_str)).into()
}

pub fn state() -> Ref {
    Ref::from_schema_name("State")
}

pub fn state_or_null() -> Schema {
    let null = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null)).build();
    OneOfBuilder::new().item(state()).item(null).build().into()
}

pub fn states() -> Schema {
    list_of(state())
}

pub fn levels() -> Schema {
    list_of(enum_of(LogLevel::ALL.map(LogLevel::as_str)))
}

pub fn text() -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .min_length(Some(1))
        .max_length(Some(MAX_TEXT))
        .pattern(Some("^[^\\u0000\\ufffd]+$"))
        .build()
        .into()
}

pub fn limit() -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Integer))
        .minimum(Some(1))
        .maximum(Some(MAX_LIMIT))
        .default(Some(DEFAULT_LIMIT.into()))
        .build()
        .into()
}

pub fn timestamp() -> Schema {
    let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).format(Some(format)).build().into()
}

pub fn uuid() -> Schema {
    let format = SchemaFormat::KnownFormat(KnownFormat::Uuid);
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).format(Some(format)).build().into()
}

pub fn order<S: Sort>() -> Schema {
    enum_of(OrderBy::<S>::names().iter().map(String::as_str)).into()
}

/// A list of fields of a type.
pub fn fields<T: PartialSchema>() -> Schema {
    let names = field_names::<T>();
    list_of(enum_of(names.iter().map(String::as_str)))
}

pub fn field_names<T: PartialSchema>() -> Vec<String> {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

/// Cursors of lists of DAGs, runs, tasks, claims, queues and of numbered rows: see `list::cursor`.
pub fn dag_cursor() -> Schema {
    matching(format!(r"^{UUID}\.[^\u0000]*$"))
}

pub fn dag_run_cursor() -> Schema {
    matching(format!(r"^-?[0-9]{{1,18}}\.{UUID}$"))
}

pub fn task_instance_cursor() -> Schema {
    matching(format!(r"^{UUID}\.{UUID}\.[^\u0000]*$"))
}

pub fn claim_cursor() -> Schema {
    matching(format!("^{UUID}$"))
}

pub fn queue_cursor() -> Schema {
    matching(r"^-?[0-9]{1,18}\.[^\u0000]*$".to_owned())
}

pub fn number_cursor() -> Schema {
    matching("^-?[0-9]{1,18}$".to_owned())
}
