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

/// An execution of a DAG.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DagRun {
    /// Time-ordered: newer runs have larger ids.
    pub id: Uuid,
    /// The DAG.
    pub dag_id: Uuid,
    /// The moment that the run stands for; a moment outside the years 1 to 9999 is given as their limit.
    #[serde(serialize_with = "json::moment")]
    pub execution_date: DateTime<Utc>,
    /// What it is doing.
    pub state: State,
    /// 1 at creation, one more with each move.
    pub version: i64,
    /// Its parameters, a JSON object.
    pub conf: Box<RawValue>,
    /// When it last began to run.
    #[serde(serialize_with = "json::moment_or_null")]
    pub start_date: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(serialize_with = "json::moment_or_null")]
    pub end_date: Option<DateTime<Utc>>,
    /// When it was created.
    #[serde(serialize_with = "json::moment")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(serialize_with = "json::moment")]
    pub updated_at: DateTime<Utc>,
}

impl DagRun {
    /// Reads the parameters into a type of the caller's.
    ///
    /// # Errors
    /// [`Error::Json`] where they do not fit.
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
