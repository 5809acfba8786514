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
    /// Time-ordered: newer DAGs have larger ids.
    pub id: Uuid,
    /// Unique.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// When to run, as the scheduler spells it.
    pub schedule: Option<String>,
    /// The first moment that the schedule covers; a moment outside the years 1 to 9999 is given as their limit.
    #[serde(serialize_with = "json::moment_or_null")]
    pub start_date: Option<DateTime<Utc>>,
    /// Labels.
    pub tags: Vec<String>,
    /// Whether schedulers start no new run.
    pub is_paused: bool,
    /// When it was created.
    #[serde(serialize_with = "json::moment")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "json::moment")]
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
