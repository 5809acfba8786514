use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::within_rfc_3339;
use crate::event::state;
use crate::record::{Column, Record};
use crate::{Error, json};

/// A run of a DAG.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DagRun {
    /// Time-ordered: newer runs have greater ids.
    pub id: Uuid,
    /// The DAG.
    pub dag_id: Uuid,
    /// Execution date (Airflow: logical date); a time outside the years 1 to 9999 becomes their limit.
    #[serde(serialize_with = "json::time")]
    pub execution_date: DateTime<Utc>,
    /// Its state.
    pub state: State,
    /// 1 at creation, incremented by each transition.
    pub version: i64,
    /// Its parameters, a JSON object.
    pub conf: Box<RawValue>,
    /// Time when it last entered `running`.
    #[serde(serialize_with = "json::time_or_null")]
    pub start_date: Option<DateTime<Utc>>,
    /// Time when it finished.
    #[serde(serialize_with = "json::time_or_null")]
    pub end_date: Option<DateTime<Utc>>,
    /// Time of creation.
    #[serde(serialize_with = "json::time")]
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    #[serde(serialize_with = "json::time")]
    pub updated_at: DateTime<Utc>,
}

impl DagRun {
    /// Parses the parameters into a type of the caller.
    ///
    /// # Errors
    /// Returns [`Error::Json`] if they do not fit the type.
    pub fn parse_conf<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(serde_json::from_str(self.conf.get())?)
    }
}

impl Record for DagRun {
    const NAME: &'static str = "dag_run";
    const TABLE: &'static str = "workflow.dag_runs";
    const COLUMNS: &'static str = concat!(
        "id, dag_id, ",
        within_rfc_3339!("execution_date"),
        ", state, version, conf, start_date, end_date, created_at, updated_at"
    );
    const KEYS: &'static [Column] =
        &[Column { name: "execution_date", kind: Type::TIMESTAMPTZ }, Column { name: "id", kind: Type::UUID }];

    fn from_row(row: &Row) -> Result<Self, Error> {
        let Json(conf) = row.try_get(5)?;
        Ok(DagRun {
            id: row.try_get(0)?,
            dag_id: row.try_get(1)?,
            execution_date: row.try_get(2)?,
            state: state(row.try_get(3)?)?,
            version: row.try_get(4)?,
            conf,
            start_date: row.try_get(6)?,
            end_date: row.try_get(7)?,
            created_at: row.try_get(8)?,
            updated_at: row.try_get(9)?,
        })
    }
}
