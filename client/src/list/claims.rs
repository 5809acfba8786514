//! The list of claims: who holds which task, and until when.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::query::{Plan, Query, Way};
use super::{ClaimSort, ListOptions, OrderBy, Page};
use crate::record::{Column, Record};
use crate::session::Session;
use crate::{Error, json};

/// A task that a worker holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeldClaim {
    /// The task instance.
    pub id: Uuid,
    /// The task's name.
    pub task_id: String,
    /// Its run.
    pub dag_run_id: Uuid,
    /// Name of its queue; `None` if it has left the queue.
    pub queue: Option<String>,
    /// The worker that has claimed it.
    pub worker: String,
    /// Number of this attempt.
    pub try_number: i32,
    /// Time of the claim.
    #[serde(serialize_with = "json::time")]
    pub claimed_at: DateTime<Utc>,
    /// End of the lease. A standby does not know renewals.
    #[serde(serialize_with = "json::time")]
    pub lease_expires_at: DateTime<Utc>,
    /// End of the attempt, whatever is renewed; `None` if there is none.
    #[serde(serialize_with = "json::time_or_null")]
    pub times_out_at: Option<DateTime<Utc>>,
    /// Time at which the holder was asked to stop.
    #[serde(serialize_with = "json::time_or_null")]
    pub cancel_requested_at: Option<DateTime<Utc>>,
}

impl Record for HeldClaim {
    const NAME: &'static str = "claim";
    const TABLE: &'static str = "workflow.claims";
    const COLUMNS: &'static str = "t.id, t.task_id, t.dag_run_id, t.queue, t.worker, t.try_number, t.claimed_at, \
         t.lease_expires_at, t.times_out_at, t.cancel_requested_at";
    const KEYS: &'static [Column] = &[Column { name: "id", kind: Type::UUID }];

    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(HeldClaim {
            id: row.try_get(0)?,
            task_id: row.try_get(1)?,
            dag_run_id: row.try_get(2)?,
            queue: row.try_get(3)?,
            worker: row.try_get(4)?,
            try_number: row.try_get(5)?,
            claimed_at: row.try_get(6)?,
            lease_expires_at: row.try_get(7)?,
            times_out_at: row.try_get(8)?,
            cancel_requested_at: row.try_get(9)?,
        })
    }
}

/// Filters claims. `None` matches all.
#[derive(Clone, Debug, Default)]
pub struct ClaimFilter {
    /// Of this task.
    pub id: Option<Uuid>,
    /// Of tasks of this run.
    pub dag_run_id: Option<Uuid>,
    /// Of tasks of queues with this name.
    pub queue: Option<String>,
    /// Of this worker.
    pub worker: Option<String>,
}

/// The claims that workers hold now.
///
/// ```no_run
/// use pg_workflow_client::list::{ClaimFilter, HeldClaims, ListOptions};
/// use pg_workflow_client::{Error, session::Session};
///
/// # async fn example(session: &impl Session) -> Result<(), Error> {
/// let of_worker = ClaimFilter { worker: Some("w-7".to_owned()), ..ClaimFilter::default() };
/// for claim in HeldClaims::new(session).list(&of_worker, &ListOptions::default()).await?.items {
///     println!("{} until {}", claim.task_id, claim.lease_expires_at);
/// }
/// # Ok(())
/// # }
/// ```
pub struct HeldClaims<'a, S>(&'a S);

impl<'a, S: Session> HeldClaims<'a, S> {
    /// Uses this session.
    pub fn new(session: &'a S) -> HeldClaims<'a, S> {
        HeldClaims(session)
    }

    /// Lists claims, by default those of the newest tasks first.
    ///
    /// # Errors
    /// Returns [`Error::Cursor`] if the cursor is not one of this list; [`Error::Denied`], [`Error::Postgres`] or
    /// [`Error::Timeout`] as every method.
    pub async fn list(&self, filter: &ClaimFilter, page: &ListOptions<ClaimSort>) -> Result<Page<HeldClaim>, Error> {
        let order = page.order_by.unwrap_or(OrderBy::descending(ClaimSort::Id));
        let is_narrow = filter.id.is_some() || filter.dag_run_id.is_some();
        let of_queue = match is_narrow {
            true => "t.queue = $",
            false => "t.queue_id = ANY (ARRAY(SELECT q.id FROM workflow.queue_settings AS q WHERE q.name = $))",
        };
        let mut query = Query::default();
        query.and("t.id = $", &filter.id, Type::UUID);
        query.and("t.dag_run_id = $", &filter.dag_run_id, Type::UUID);
        query.and("t.worker = $", &filter.worker, Type::TEXT);
        query.and(of_queue, &filter.queue, Type::TEXT);
        let way = if is_narrow { Way::Few } else { Way::Running };
        query.list(self.0, &[], page, Plan { order, keys: &[0], way }).await
    }
}
