use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::within_rfc_3339;
use crate::record::{Column, Record};
use crate::{Error, json};

/// A workflow definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Dag {
    /// Time-ordered: newer DAGs have greater ids.
    pub id: Uuid,
    /// Unique.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// When to run, in the format of the scheduler.
    pub schedule: Option<String>,
    /// Start of the schedule; a time outside the years 1 to 9999 becomes their limit.
    #[serde(serialize_with = "json::time_or_null")]
    pub start_date: Option<DateTime<Utc>>,
    /// Labels.
    pub tags: Vec<String>,
    /// Whether schedulers must not start new runs.
    pub is_paused: bool,
    /// Time of creation.
    #[serde(serialize_with = "json::time")]
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    #[serde(serialize_with = "json::time")]
    pub updated_at: DateTime<Utc>,
}

impl Record for Dag {
    const NAME: &'static str = "dag";
    const TABLE: &'static str = "workflow.dags";
    const COLUMNS: &'static str = concat!(
        "id, name, description, schedule, ",
        within_rfc_3339!("start_date"),
        ", tags, is_paused, created_at, updated_at"
    );
    const KEYS: &'static [Column] =
        &[Column { name: "id", kind: Type::UUID }, Column { name: "name", kind: Type::TEXT }];

    fn from_row(row: &Row) -> Result<Self, Error> {
        let Json(tags) = row.try_get(5)?;
        Ok(Dag {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            description: row.try_get(2)?,
            schedule: row.try_get(3)?,
            start_date: row.try_get(4)?,
            tags,
            is_paused: row.try_get(6)?,
            created_at: row.try_get(7)?,
            updated_at: row.try_get(8)?,
        })
    }
}
