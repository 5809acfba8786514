//! Raising errors from the functions in SQL, so that they have the same form as all others.

use crate::errors;
use crate::ffi::jsonb::Jsonb;
use pgrx::pg_extern;

/// Cuts a message, which may repeat a value and describe it.
fn cut_message(message: &str) -> &str {
    message.char_indices().nth(500).map_or(message, |(end, _)| &message[..end])
}

#[pg_extern(sql = false)]
fn refuse_argument(message: Option<&str>, detail: Option<Jsonb>, hint: Option<&str>) {
    let detail = detail.map_or(serde_json::Value::Null, errors::cut_detail);
    errors::invalid(cut_message(message.unwrap_or("invalid argument")), &detail, errors::cut(hint.unwrap_or("")))
}

#[pg_extern(sql = false)]
fn refuse_missing(entity_type: Option<&str>, id: Option<&str>, tried: Option<&str>) {
    errors::missing(entity_type.unwrap_or("entity"), id.unwrap_or("null"), tried.unwrap_or("use it"))
}

#[pg_extern(sql = false)]
fn refuse_leased(consumer: Option<&str>, lease: Option<i64>, holder: Option<&str>, current_lease: Option<i64>) {
    errors::leased(consumer.unwrap_or_default(), lease, holder, current_lease)
}
