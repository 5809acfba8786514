//! Claims: a worker takes tasks from queues, and ends each by its claim.

pub mod busy;
mod due;
mod end;
mod finish;
mod late;
pub mod leases;
pub mod reap;
mod refused;
mod renew;
mod runs;
pub mod take;
mod token;
mod walk;

use crate::errors;
use crate::ffi::jsonb::{Jsonb, JsonbCopy};
use crate::ffi::uuid::Uuid;
use crate::ffi::values;
use crate::{args, fields, memory, rights};
use end::{End, Ended, Word};
use leases::Held;
use pg_workflow_state_machine::State;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::iter::TableIterator;
use pgrx::{Array, name};
use serde_json::json;
use take::Taking;
use token::Claim;

/// The most tasks that a call may claim.
const MOST: i32 = 10_000;

/// Returns the microseconds of an argument.
fn microseconds(argument: &str, value: Option<Interval>) -> i64 {
    let sum = values::microseconds(&args::not_null(argument, value));
    i64::try_from(sum).unwrap_or(if sum > 0 { i64::MAX } else { i64::MIN })
}

/// A hundred years: the sum with the current time is a date.
pub const LONGEST: i64 = 36_525 * 86_400_000_000;

/// Returns the microseconds of an argument that must be positive.
pub fn positive(argument: &str, value: Option<Interval>) -> i64 {
    let value = args::not_null(argument, value);
    // A month less 30 days is negative in February.
    let is_negative = value.months() < 0 || value.days() < 0 || value.micros() < 0;
    let microseconds = if is_negative { 0 } else { microseconds(argument, Some(value)) };
    if microseconds <= 0 || microseconds > LONGEST {
        let rule = if microseconds <= 0 { "must be more than 0" } else { "must not be longer than 100 years" };
        let hint = format!("Set {argument} to a time such as '30 s'.");
        errors::invalid_argument(argument, &json!(null), rule, &hint);
    }
    microseconds
}

/// Returns the microseconds until the next attempt, at most 100 years; negative: there is none.
fn retry_time(value: Option<Interval>) -> Option<i64> {
    value.map(|time| microseconds("retry_after", Some(time)).min(LONGEST))
}

/// Returns the microseconds of a delay, at most 100 years.
fn delay(argument: &str, value: Option<Interval>) -> i64 {
    let microseconds = microseconds(argument, value);
    if microseconds < 0 {
        errors::invalid_argument(
            argument,
            &json!(null),
            "must be 0 or more",
            "Set it to a time such as '30 s', or '0'.",
        );
    }
    microseconds.min(LONGEST)
}

/// Returns the names of queues.
fn queue_names(queues: Option<Array<'_, &'_ str>>) -> Vec<String> {
    let names = args::array("queues", queues);
    memory::collect(names.iter().map(|name| memory::copy(args::name("queues", name))))
}

type Claimed = TableIterator<
    'static,
    (
        name!(claim, String),
        name!(id, pgrx::Uuid),
        name!(dag_id, pgrx::Uuid),
        name!(dag_run_id, pgrx::Uuid),
        name!(task_id, String),
        name!(try_number, i32),
        name!(conf, JsonbCopy),
        name!(timeout, Option<Interval>),
        name!(lease_expires_at, TimestampWithTimeZone),
    ),
>;

#[pgrx::pg_extern(sql = false)]
fn claim_tasks(
    worker: Option<&str>,
    queues: Option<Array<'_, &'_ str>>,
    max: Option<i32>,
    lease: Option<Interval>,
) -> Claimed {
    rights::refuse_restricted_operation();
    let worker = args::name("worker", worker);
    let names = queue_names(queues);
    let max = args::not_null("max", max);
    if !(1..=MOST).contains(&max) {
        let hint = format!("Set max to a number from 1 to {MOST}.");
        errors::invalid_argument("max", &json!(max), &format!("must be from 1 to {MOST}"), &hint);
    }
    let lease = positive("lease", lease);
    let taken = Taking::new(worker, lease, max as usize).take_from_all(&names);
    TableIterator::new(taken.into_iter().map(|task| {
        (
            task.claim.to_string(),
            pgrx::Uuid::from_bytes(task.claim.task.0),
            pgrx::Uuid::from_bytes(task.dag.0),
            pgrx::Uuid::from_bytes(task.run.0),
            task.task_id,
            task.try_number,
            task.conf,
            task.timeout,
            TimestampWithTimeZone::try_from(task.lease_expires_at).unwrap_or_else(|_| errors::infinite("lease")),
        )
    }))
}

/// Ends a claim as a success. Returns the version of the task.
#[pgrx::pg_extern(sql = false)]
fn complete_claim(claim: Option<&str>, result: Option<Jsonb>) -> i64 {
    rights::refuse_restricted_operation();
    let claim = Claim::parse("claim", claim);
    let metadata = args::json_object("result", result);
    end::end(Word { claim, end: End::Success, metadata }).or_raise(claim).1
}

/// Whether a task is still as a claim has left it. For append_task_log().
#[pgrx::pg_extern(sql = false)]
fn is_claim_of(claim: &str, id: pgrx::Uuid, version: i64, start_date: TimestampWithTimeZone) -> bool {
    let claim = Claim::parse("claim", Some(claim));
    (claim.task, claim.version, claim.start_date) == (Uuid(*id.as_bytes()), version, start_date.into())
}

/// Raises the error of a lost claim. For append_task_log().
#[pgrx::pg_extern(sql = false)]
fn refuse_lost_claim(claim: Option<&str>, task_instance_id: Option<pgrx::Uuid>) {
    let claim = Claim::parse("claim", claim);
    if task_instance_id.is_none_or(|id| *id.as_bytes() != claim.task.0) {
        errors::invalid_argument(
            "claim",
            &json!(claim.to_string()),
            "is of another task",
            "Pass the id of the task with its claim, both as workflow.claim_tasks() returned them.",
        );
    }
    end::refuse_lost(claim)
}

type Failed = TableIterator<'static, (name!(state, &'static str), name!(version, i64))>;

/// Ends a claim as a failure: the task is retried if it has tries left.
#[pgrx::pg_extern(sql = false)]
fn fail_claim(
    claim: Option<&str>,
    error: Option<&str>,
    retry_after: Option<Interval>,
    metadata: Option<Jsonb>,
) -> Failed {
    rights::refuse_restricted_operation();
    let claim = Claim::parse("claim", claim);
    let error = args::not_null("error", error);
    fields::check_text("error", error);
    let metadata = args::json_object("metadata", metadata).with("error", error);
    let end = End::Failure(retry_time(retry_after));
    let (state, version) = end::end(Word { claim, end, metadata }).or_raise(claim);
    TableIterator::once((state.as_str(), version))
}

type Outcomes = TableIterator<'static, (name!(claim, String), name!(outcome, &'static str))>;

/// Parses the claims of a batch.
fn claims_of(claims: Option<Array<'_, &'_ str>>) -> Vec<Claim> {
    let claims = args::array("claims", claims);
    memory::collect(claims.iter().map(|claim| Claim::parse("claims", claim)))
}

/// Returns the outcome of each claim, in the order of the argument.
fn outcomes(claims: Vec<Claim>, outcomes: Vec<&'static str>) -> Outcomes {
    TableIterator::new(claims.into_iter().map(|claim| claim.to_string()).zip(outcomes))
}

/// Gives work back: the attempts do not count.
#[pgrx::pg_extern(sql = false)]
fn release_claims(claims: Option<Array<'_, &'_ str>>, delay: Option<Interval>) -> Outcomes {
    rights::refuse_restricted_operation();
    let claims = claims_of(claims);
    let end = End::Release(self::delay("delay", delay));
    let metadata = Jsonb::object_of("reason", "released");
    let words = memory::collect(claims.iter().map(|claim| Word { claim: *claim, end, metadata }));
    let ended = end::end_all(&words).into_iter().map(|ended| match ended {
        Ended::Now(State::Retrying, _) | Ended::Before(State::Retrying, _) => "released",
        Ended::Now(..) | Ended::Before(..) => "cancelled",
        Ended::Lost(_) => "lost",
    });
    outcomes(claims, memory::collect(ended))
}

/// Renews leases; null: as long as each was claimed for.
#[pgrx::pg_extern(sql = false)]
fn renew_claims(claims: Option<Array<'_, &'_ str>>, lease: Option<Interval>) -> Outcomes {
    rights::refuse_restricted_operation();
    let claims = claims_of(claims);
    let lease = lease.map(|lease| positive("lease", Some(lease)));
    let renewed = renew::renew(&claims, lease);
    outcomes(claims, renewed)
}

type Reaped = TableIterator<
    'static,
    (name!(id, pgrx::Uuid), name!(worker, String), name!(reason, &'static str), name!(state, &'static str)),
>;

/// Ends claims whose time has run out.
#[pgrx::pg_extern(sql = false)]
fn reap_claims(max: Option<i32>) -> Reaped {
    rights::refuse_restricted_operation();
    let most = usize::try_from(args::not_null("max", max)).unwrap_or(0);
    if most == 0 {
        errors::invalid_argument("max", &json!(max), "must be 1 or more", "Set max to 1 or more.");
    }
    TableIterator::new(
        reap::reap(most)
            .into_iter()
            .map(|(task, claim)| (pgrx::Uuid::from_bytes(task.0), claim.worker, claim.reason, claim.state.as_str())),
    )
}

/// Asks the holder of a running task to stop. Returns whether the task runs.
#[pgrx::pg_extern(sql = false)]
fn note_cancel(task_instance_id: pgrx::Uuid) -> bool {
    rights::refuse_restricted_operation();
    end::note_cancel(Uuid(*task_instance_id.as_bytes()))
}

fn held(id: pgrx::Uuid, version: i64, start_date: i64, lease_expires_at: i64) -> Held {
    let claim = Claim { task: Uuid(*id.as_bytes()), version, start_date, lease: 1 };
    Held { claim, lease_expires_at }
}

/// Returns the end of a claim's lease, which may be renewed in shared memory.
#[pgrx::pg_extern(sql = false)]
fn lease_end(
    id: pgrx::Uuid,
    version: i64,
    start_date: TimestampWithTimeZone,
    lease_expires_at: TimestampWithTimeZone,
) -> TimestampWithTimeZone {
    let end = held(id, version, start_date.into(), lease_expires_at.into()).ends_at();
    TimestampWithTimeZone::try_from(end).unwrap_or(lease_expires_at)
}

/// Whether a claim's lease has run out.
#[pgrx::pg_extern(sql = false)]
fn has_expired(
    id: pgrx::Uuid,
    version: i64,
    start_date: TimestampWithTimeZone,
    lease_expires_at: TimestampWithTimeZone,
) -> bool {
    held(id, version, start_date.into(), lease_expires_at.into()).has_expired()
}
