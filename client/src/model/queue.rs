use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::within_rfc_3339;
use crate::record::{Column, Record};
use crate::{Error, json};

/// A queue from which workers claim tasks, with how many wait and run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Queue {
    /// Number of the queue.
    pub id: i64,
    /// Its name, unique within the tenant.
    pub name: String,
    /// Tenant of its tasks' DAGs; empty if it is shared.
    pub tenant: String,
    /// How many of its tasks can be claimed at a time; `None` for any number.
    pub slots: Option<i32>,
    /// No task is claimed before this time; `None`: never paused.
    #[serde(serialize_with = "json::time_or_null")]
    pub paused_until: Option<DateTime<Utc>>,
    /// Tasks that can be claimed now.
    pub ready: i64,
    /// Tasks that can be claimed at a later time.
    pub later: i64,
    /// Tasks that a claim has met while their DAG was paused or their run had ended.
    pub parked: i64,
    /// Since when the oldest of the ready tasks waits.
    #[serde(serialize_with = "json::time_or_null")]
    pub oldest_ready_at: Option<DateTime<Utc>>,
    /// Tasks that workers have claimed.
    pub running: i64,
    /// Claims that found no free slot since the server started; `None` if the library is not preloaded.
    pub refused: Option<i64>,
}

impl Record for Queue {
    const NAME: &'static str = "queue";
    // A cursor has numbers of 64 bits.
    const TABLE: &'static str = "(SELECT q.id::bigint AS id, q.name, q.tenant, q.slots, q.paused_until, q.ready, q.later, \
         q.parked, q.oldest_ready_at, q.running, q.refused FROM workflow.queues AS q)";
    const COLUMNS: &'static str = concat!(
        "id, name, tenant, slots, ",
        within_rfc_3339!("paused_until"),
        ", ready, later, parked, ",
        within_rfc_3339!("oldest_ready_at"),
        ", running, refused"
    );
    const KEYS: &'static [Column] =
        &[Column { name: "id", kind: Type::INT8 }, Column { name: "name", kind: Type::TEXT }];

    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Queue {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            tenant: row.try_get(2)?,
            slots: row.try_get(3)?,
            paused_until: row.try_get(4)?,
            ready: row.try_get(5)?,
            later: row.try_get(6)?,
            parked: row.try_get(7)?,
            oldest_ready_at: row.try_get(8)?,
            running: row.try_get(9)?,
            refused: row.try_get(10)?,
        })
    }
}
