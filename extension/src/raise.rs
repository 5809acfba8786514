//! Raising errors from the functions in SQL, so that they have the same form as all others.

use crate::errors;
use pgrx::pg_extern;

#[pg_extern(sql = false)]
fn refuse_argument(message: Option<&str>, detail: Option<pgrx::JsonB>, hint: Option<&str>) {
    let detail = detail.map_or(serde_json::Value::Null, |detail| detail.0);
    errors::invalid(message.unwrap_or("invalid argument"), &detail, hint.unwrap_or(""))
}

#[pg_extern(sql = false)]
fn refuse_missing(entity_type: Option<&str>, id: Option<&str>, tried: Option<&str>) {
    errors::missing(entity_type.unwrap_or("entity"), id.unwrap_or("null"), tried.unwrap_or("use it"))
}

#[pg_extern(sql = false)]
fn refuse_leased(consumer: Option<&str>, lease: Option<i64>, holder: Option<&str>, current_lease: Option<i64>) {
    errors::leased(consumer.unwrap_or_default(), lease, holder, current_lease)
}
