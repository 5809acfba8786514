use std::time::Duration;

use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use crate::event::state;
use crate::{Error, json};

/// A task that a worker has claimed, and that it holds until its claim ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClaimedTask {
    /// The claim: pass it as it is to the function that ends it.
    pub claim: String,
    /// The task.
    pub id: Uuid,
    /// The DAG.
    pub dag_id: Uuid,
    /// The run.
    pub dag_run_id: Uuid,
    /// Its name, unique in the run.
    pub task_id: String,
    /// Number of this attempt.
    pub try_number: i32,
    /// The parameters of the run, a JSON object.
    pub conf: Box<RawValue>,
    /// Longest time of this attempt; `None` for any.
    pub timeout: Option<Duration>,
    /// End of the lease, if it is not renewed.
    #[serde(serialize_with = "json::time")]
    pub lease_expires_at: DateTime<Utc>,
}

impl ClaimedTask {
    /// Parses the parameters of the run into a type of the caller.
    ///
    /// # Errors
    /// Returns [`Error::Json`] if they do not fit the type.
    pub fn parse_conf<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(serde_json::from_str(self.conf.get())?)
    }

    pub(crate) fn from_row(row: &Row) -> Result<ClaimedTask, Error> {
        let Json(conf) = row.try_get(6)?;
        let timeout: Option<f64> = row.try_get(7)?;
        Ok(ClaimedTask {
            claim: row.try_get(0)?,
            id: row.try_get(1)?,
            dag_id: row.try_get(2)?,
            dag_run_id: row.try_get(3)?,
            task_id: row.try_get(4)?,
            try_number: row.try_get(5)?,
            conf,
            timeout: timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            lease_expires_at: row.try_get(8)?,
        })
    }
}

/// The result for one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimResult<O> {
    /// The claim.
    pub claim: String,
    /// Its outcome.
    pub outcome: O,
}

impl<O: DeserializeOwned> ClaimResult<O> {
    /// Reads a row of a claim and an outcome.
    pub(crate) fn from_row(row: &Row) -> Result<ClaimResult<O>, Error> {
        Ok(ClaimResult { claim: row.try_get(0)?, outcome: outcome(row.try_get(1)?)? })
    }
}

/// Outcomes of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RenewOutcome {
    /// The lease was renewed.
    Renewed,
    /// The lease was renewed, but the cancellation of the task was requested: stop, and fail the claim.
    Cancel,
    /// The lease was not renewed: a trigger, a constraint or a policy refuses it. The claim is held until the lease ends.
    Refused,
    /// The claim is lost: stop, another worker can have the task.
    Lost,
}

/// Outcomes of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ReleaseOutcome {
    /// The task can be claimed again, and the attempt does not count.
    Released,
    /// The cancellation of the task was requested: it failed.
    Cancelled,
    /// The claim was lost before.
    Lost,
}

/// The result for one of many claims that end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FinishResult {
    /// The claim.
    pub claim: String,
    /// Whether the word of this claim counts.
    pub outcome: FinishOutcome,
    /// The state of the task; `None` if it does not exist.
    pub state: Option<State>,
    /// The version of the task; `None` if it does not exist.
    pub version: Option<i64>,
}

impl FinishResult {
    pub(crate) fn from_row(row: &Row) -> Result<FinishResult, Error> {
        Ok(FinishResult {
            claim: row.try_get(0)?,
            outcome: outcome(row.try_get(1)?)?,
            state: row.try_get::<_, Option<&str>>(2)?.map(state).transpose()?,
            version: row.try_get(3)?,
        })
    }
}

/// Outcomes for one of many claims that end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FinishOutcome {
    /// The claim ended as requested, by this call or an earlier one.
    Done,
    /// The claim was lost before.
    Lost,
}

/// A claim that ended because its time had run out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReapedClaim {
    /// The task.
    pub id: Uuid,
    /// The worker that held it.
    pub worker: String,
    /// `lease expired` or `timeout`.
    pub reason: String,
    /// The new state of the task.
    pub state: State,
}

impl ReapedClaim {
    pub(crate) fn from_row(row: &Row) -> Result<ReapedClaim, Error> {
        Ok(ReapedClaim {
            id: row.try_get(0)?,
            worker: row.try_get(1)?,
            reason: row.try_get(2)?,
            state: state(row.try_get(3)?)?,
        })
    }
}

/// Outcomes of a request to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CancelOutcome {
    /// The task was queued, and is skipped now.
    Skipped,
    /// The task was retrying, and is failed now.
    Failed,
    /// The holder of a running task learns it at its next renewal. Always for a run.
    Requested,
    /// The task had ended before.
    Ended,
}

/// The result for one of many tasks to enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnqueueResult {
    /// The task.
    pub id: Uuid,
    /// Its outcome.
    pub outcome: EnqueueOutcome,
}

impl EnqueueResult {
    pub(crate) fn from_row(row: &Row) -> Result<EnqueueResult, Error> {
        Ok(EnqueueResult { id: row.try_get(0)?, outcome: outcome(row.try_get(1)?)? })
    }
}

/// Outcomes for one of many tasks to enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EnqueueOutcome {
    /// Workers can claim it.
    Enqueued,
    /// It is neither queued nor retrying.
    Stale,
    /// It does not exist.
    Missing,
}

/// Parses the name of an outcome.
pub(crate) fn outcome<O: DeserializeOwned>(name: &str) -> Result<O, Error> {
    let read = StrDeserializer::<serde::de::value::Error>::new(name);
    O::deserialize(read).map_err(|_| Error::Unknown(format!("the outcome \"{name}\"")))
}
