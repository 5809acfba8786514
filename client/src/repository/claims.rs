//! Claims: workers take tasks from queues, and end each by its claim.

mod ending;

use std::time::Duration;

use chrono::{DateTime, Utc};
use pg_workflow_state_machine::State;
use serde_json::Value;
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use super::seconds;
use crate::Error;
use crate::event::state;
use crate::model::claim::{self, ClaimResult, ClaimedTask, FinishResult, ReapedClaim};
use crate::model::{CancelOutcome, EnqueueResult, ReleaseOutcome, RenewOutcome};
use crate::session::{self, Session};

pub use ending::{Failure, Finish, Retry};

/// The tasks that a worker wants.
///
/// ```
/// use pg_workflow_client::ClaimTasks;
///
/// let some = ClaimTasks { queues: vec!["etl".to_owned()], max: 10, ..ClaimTasks::by("w-7") };
/// ```
#[derive(Clone, Debug)]
pub struct ClaimTasks {
    /// The worker's name, for people: the claim alone proves who holds a task.
    pub worker: String,
    /// The queues to take from, in this order.
    pub queues: Vec<String>,
    /// Number of tasks at most, 1 to 10,000.
    pub max: i32,
    /// Time after which other workers get the task, unless the claim is renewed.
    pub lease: Duration,
}

impl ClaimTasks {
    /// Claims one task of the queue `default`, with a lease of 30 s.
    pub fn by(worker: impl Into<String>) -> ClaimTasks {
        ClaimTasks { worker: worker.into(), queues: vec!["default".to_owned()], max: 1, lease: Duration::from_secs(30) }
    }
}

/// Tasks that workers may claim from now on.
///
/// ```
/// use pg_workflow_client::Enqueue;
///
/// # let (one, other) = (uuid::Uuid::nil(), uuid::Uuid::nil());
/// let urgent = Enqueue { priority: 0, ..Enqueue::of([one, other]) };
/// ```
#[derive(Clone, Debug)]
pub struct Enqueue {
    /// The tasks.
    pub ids: Vec<Uuid>,
    /// The queue; a new name creates it.
    pub queue: String,
    /// 0 (first) to 9 (last).
    pub priority: i32,
    /// Time before which no worker gets them.
    pub not_before: Option<DateTime<Utc>>,
}

impl Enqueue {
    /// Puts tasks into the queue `default`, at priority 5, to be claimed at once.
    pub fn of(ids: impl IntoIterator<Item = Uuid>) -> Enqueue {
        Enqueue { ids: ids.into_iter().collect(), queue: "default".to_owned(), priority: 5, not_before: None }
    }
}

/// The state and version of a task whose claim has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedClaim {
    /// `Retrying` if attempts are left, else `Failed`.
    pub state: State,
    /// The version of the task.
    pub version: i64,
}

/// The claims of a database.
///
/// [`worker::run`](crate::worker::run) does all of this for you.
///
/// A claim that ends in a transaction of yours guards what the transaction writes: if the claim is lost, the error
/// undoes it. After a lost connection, the same call can be repeated: it returns the same.
///
/// ```no_run
/// use pg_workflow_client::{ClaimTasks, Claims, Error, session::Session};
/// use serde_json::json;
///
/// # async fn example(session: &impl Session) -> Result<(), Error> {
/// let claims = Claims::new(session);
/// for task in claims.claim(&ClaimTasks::by("w-7")).await? {
///     match std::fs::read_to_string(&task.task_id) {
///         Ok(text) => claims.complete(&task.claim, &json!({"bytes": text.len()})).await.map(drop)?,
///         Err(error) => claims.fail(&task.claim, &error.into()).await.map(drop)?,
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Claims<'a, S>(&'a S);

impl<'a, S: Session> Claims<'a, S> {
    /// Uses this session.
    pub fn new(session: &'a S) -> Claims<'a, S> {
        Claims(session)
    }

    /// Waits until a task of these queues can be claimed; returns false after `timeout`.
    ///
    /// Meanwhile the connection is busy, but holds no snapshot and no lock. Keep `timeout` below the time limit of the
    /// session's statements (30 s).
    ///
    /// # Errors
    /// Returns [`Error::Postgres`] (25001) in a transaction; see also [`claim`](Claims::claim).
    pub async fn wait(&self, queues: &[impl AsRef<str>], timeout: Duration) -> Result<bool, Error> {
        let sql = "CALL workflow.wait_for_tasks($1, make_interval(secs => $2))";
        let (queues, seconds) = (texts(queues), seconds(timeout));
        let parameters: [session::Parameter<'_>; 2] = [(&queues, Type::TEXT_ARRAY), (&seconds, Type::FLOAT8)];
        Ok(session::one_of(session::alone(self.0, session::LIMIT, sql, &parameters).await?)?.try_get(0)?)
    }

    /// Takes tasks and moves them to `running`. Waits for no task and no lock: there may be none.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if a field is invalid; [`Error::Denied`], [`Error::Postgres`] (25001 at REPEATABLE
    /// READ and SERIALIZABLE) or [`Error::Timeout`] as every method.
    pub async fn claim(&self, tasks: &ClaimTasks) -> Result<Vec<ClaimedTask>, Error> {
        let sql =
            "SELECT claim, id, dag_id, dag_run_id, task_id, try_number, conf, extract(epoch FROM timeout)::float8,
                       lease_expires_at
                   FROM workflow.claim_tasks($1, $2, $3, make_interval(secs => $4))";
        let seconds = seconds(tasks.lease);
        let parameters: [session::Parameter<'_>; 4] = [
            (&tasks.worker, Type::TEXT),
            (&tasks.queues, Type::TEXT_ARRAY),
            (&tasks.max, Type::INT4),
            (&seconds, Type::FLOAT8),
        ];
        session::fixed(self.0, sql, &parameters).await?.iter().map(ClaimedTask::from_row).collect()
    }

    /// Moves a claimed task to `success`, and returns its version.
    ///
    /// `result` is a JSON object, which the history stores as the metadata of the transition.
    ///
    /// # Errors
    /// Returns [`Error::ClaimLost`] if the claim is lost; see also [`claim`](Claims::claim).
    pub async fn complete(&self, claim: &str, result: &Value) -> Result<i64, Error> {
        let parameters: [session::Parameter<'_>; 2] = [(&claim, Type::TEXT), (&Json(result), Type::JSONB)];
        Ok(session::one(self.0, "SELECT workflow.complete_claim($1, $2)", &parameters).await?.try_get(0)?)
    }

    /// Ends a claim with an error: the task is retried if attempts are left.
    ///
    /// # Errors
    /// Returns [`Error::ClaimLost`] if the claim is lost; see also [`claim`](Claims::claim).
    pub async fn fail(&self, claim: &str, failure: &Failure) -> Result<FailedClaim, Error> {
        let sql = "SELECT state, version FROM workflow.fail_claim($1, $2, make_interval(secs => $3), $4)";
        let Failure { error, retry, metadata } = failure;
        let parameters: [session::Parameter<'_>; 4] = [
            (&claim, Type::TEXT),
            (error, Type::TEXT),
            (&retry.seconds(), Type::FLOAT8),
            (&Json(metadata), Type::JSONB),
        ];
        let row = session::one(self.0, sql, &parameters).await?;
        Ok(FailedClaim { state: state(row.try_get(0)?)?, version: row.try_get(1)? })
    }

    /// Ends many claims, and returns the outcome of each, in their order. A lost claim is an outcome, not an error.
    ///
    /// # Errors
    /// See [`claim`](Claims::claim).
    pub async fn finish(&self, ends: &[Finish]) -> Result<Vec<FinishResult>, Error> {
        self.finish_all(ends, false).await
    }

    /// Ends many claims, all or none.
    ///
    /// # Errors
    /// Returns [`Error::ClaimLost`] if one is lost; see also [`claim`](Claims::claim).
    pub async fn finish_strictly(&self, ends: &[Finish]) -> Result<Vec<FinishResult>, Error> {
        self.finish_all(ends, true).await
    }

    async fn finish_all(&self, ends: &[Finish], is_strict: bool) -> Result<Vec<FinishResult>, Error> {
        let sql = "SELECT claim, outcome, state, version FROM workflow.finish_claims($1, $2)";
        let parameters: [session::Parameter<'_>; 2] = [(&Json(ends), Type::JSONB), (&is_strict, Type::BOOL)];
        session::fixed(self.0, sql, &parameters).await?.iter().map(FinishResult::from_row).collect()
    }

    /// Gives tasks back unfinished, and returns the outcome of each claim, in their order.
    ///
    /// They can be claimed again after the delay, and the attempts do not count.
    ///
    /// # Errors
    /// See [`claim`](Claims::claim).
    pub async fn release(
        &self,
        claims: &[impl AsRef<str>],
        delay: Duration,
    ) -> Result<Vec<ClaimResult<ReleaseOutcome>>, Error> {
        let sql = "SELECT claim, outcome FROM workflow.release_claims($1, make_interval(secs => $2))";
        let parameters: [session::Parameter<'_>; 2] =
            [(&texts(claims), Type::TEXT_ARRAY), (&seconds(delay), Type::FLOAT8)];
        session::fixed(self.0, sql, &parameters).await?.iter().map(ClaimResult::from_row).collect()
    }

    /// Renews leases from now on, and returns the outcome of each claim, in their order.
    ///
    /// Without a lease, each is renewed for as long as it was claimed for.
    ///
    /// # Errors
    /// See [`claim`](Claims::claim).
    pub async fn renew(
        &self,
        claims: &[impl AsRef<str>],
        lease: Option<Duration>,
    ) -> Result<Vec<ClaimResult<RenewOutcome>>, Error> {
        let sql = "SELECT claim, outcome FROM workflow.renew_claims($1, make_interval(secs => $2))";
        let seconds = lease.map(seconds);
        let parameters: [session::Parameter<'_>; 2] = [(&texts(claims), Type::TEXT_ARRAY), (&seconds, Type::FLOAT8)];
        session::fixed(self.0, sql, &parameters).await?.iter().map(ClaimResult::from_row).collect()
    }

    /// Ends up to `max` claims whose lease or timeout has run out, and returns them.
    ///
    /// # Errors
    /// See [`claim`](Claims::claim).
    pub async fn reap(&self, max: i32) -> Result<Vec<ReapedClaim>, Error> {
        let sql = "SELECT id, worker, reason, state FROM workflow.reap_claims($1)";
        session::fixed(self.0, sql, &[(&max, Type::INT4)]).await?.iter().map(ReapedClaim::from_row).collect()
    }

    /// Cancels a task, or all tasks of a run.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if it does not exist; see also [`claim`](Claims::claim).
    pub async fn request_cancel(&self, id: Uuid) -> Result<CancelOutcome, Error> {
        let row = session::one(self.0, "SELECT workflow.request_cancel($1)", &[(&id, Type::UUID)]).await?;
        claim::outcome(row.try_get(0)?)
    }

    /// Makes queued and retrying tasks claimable, and returns the outcome of each, in their order.
    ///
    /// # Errors
    /// See [`claim`](Claims::claim).
    pub async fn enqueue(&self, tasks: &Enqueue) -> Result<Vec<EnqueueResult>, Error> {
        let sql = "SELECT id, outcome FROM workflow.enqueue_task_instances($1, $2, $3, $4)";
        let parameters: [session::Parameter<'_>; 4] = [
            (&tasks.ids, Type::UUID_ARRAY),
            (&tasks.queue, Type::TEXT),
            (&tasks.priority, Type::INT4),
            (&tasks.not_before, Type::TIMESTAMPTZ),
        ];
        session::fixed(self.0, sql, &parameters).await?.iter().map(EnqueueResult::from_row).collect()
    }
}

fn texts(texts: &[impl AsRef<str>]) -> Vec<&str> {
    texts.iter().map(AsRef::as_ref).collect()
}
