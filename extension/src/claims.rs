//! Claims: a worker takes tasks from queues, and ends each by its claim.

mod due;
mod end;
mod runs;
mod take;
mod token;

use crate::errors;
use crate::ffi::jsonb::{Jsonb, JsonbCopy};
use crate::ffi::uuid::Uuid;
use crate::{args, fields, memory, queues, rights};
use end::{End, Ended, Verdict};
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
    let value = args::not_null(argument, value);
    let days = i128::from(value.months()) * 30 + i128::from(value.days());
    let sum = days * 86_400_000_000 + i128::from(value.micros());
    i64::try_from(sum).unwrap_or(if sum > 0 { i64::MAX } else { i64::MIN })
}

/// A hundred years: the sum with the current time is a date.
const LONGEST: i64 = 36_525 * 86_400_000_000;

/// Returns the microseconds of an argument that must be positive.
pub fn positive(argument: &str, value: Option<Interval>) -> i64 {
    let microseconds = microseconds(argument, value);
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

fn worker_name(worker: Option<&str>) -> &str {
    const HINT: &str = "Use 1 to 250 characters, such as the name of the host and the process.";
    let worker = worker.unwrap_or_else(|| errors::invalid_argument("worker", &json!(null), "must not be null", HINT));
    if worker.trim().is_empty() {
        errors::invalid_argument("worker", &json!(worker), "must not be blank", HINT);
    }
    if worker.chars().count() > 250 {
        errors::invalid_argument("worker", &json!(errors::cut(worker)), "must not be longer than 250 characters", HINT);
    }
    worker
}

/// Returns the names of queues.
fn queue_names(queues: Option<Array<'_, &'_ str>>) -> Vec<String> {
    let names = args::array("queues", queues);
    memory::collect(names.iter().map(|name| memory::copy(queues::check_name("queues", name))))
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
    let worker = worker_name(worker);
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
    let result = args::json_object("result", result);
    let ended = end::end(claim, End::Success, result, |_| Verdict::to(State::Success));
    ended.or_raise(claim).1
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
    let retry_after = retry_time(retry_after);
    let (state, version) =
        end::end(claim, End::Failure, metadata, |held| held.after_failure(retry_after)).or_raise(claim);
    TableIterator::once((state.as_str(), version))
}

type Finished =
    TableIterator<'static, (name!(outcome, &'static str), name!(state, Option<String>), name!(version, Option<i64>))>;

/// Ends a claim, or tells that it is lost. For finish_claims(), which has checked the state.
#[pgrx::pg_extern(sql = false)]
fn finish_claim(
    claim: Option<&str>,
    state: Option<&str>,
    metadata: Option<Jsonb>,
    retry_after: Option<Interval>,
) -> Finished {
    rights::refuse_restricted_operation();
    let claim = Claim::parse("claim", claim);
    let state = args::state("state", state);
    let metadata = args::json_object("metadata", metadata);
    let retry_after = retry_time(retry_after);
    let ended = match state {
        State::Success => end::end(claim, End::Success, metadata, |_| Verdict::to(State::Success)),
        _ => end::end(claim, End::Failure, metadata, |held| held.after_failure(retry_after)),
    };
    let row = match ended {
        Ended::Now(state, version) | Ended::Before(state, version) => {
            ("done", Some(state.as_str().to_owned()), Some(version))
        }
        Ended::Lost(now) => {
            let (state, version) = now.unzip();
            ("lost", state, version)
        }
    };
    TableIterator::once(row)
}

/// Raises the error of a claim that is lost.
#[pgrx::pg_extern(sql = false)]
fn refuse_lost_claim(claim: Option<&str>) {
    let claim = Claim::parse("claim", claim);
    end::lost(claim).or_raise(claim);
}

type Outcomes = TableIterator<'static, (name!(claim, String), name!(outcome, &'static str))>;

/// Parses the claims of a batch.
fn claims_of(claims: Option<Array<'_, &'_ str>>) -> Vec<Claim> {
    let claims = args::array("claims", claims);
    memory::collect(claims.iter().map(|claim| Claim::parse("claims", claim)))
}

/// Returns the outcome of each claim, in the order of the argument; the claims are ended in the order of the tasks, so that
/// two batches do not deadlock.
fn outcomes(claims: Vec<Claim>, mut end: impl FnMut(Claim) -> &'static str) -> Outcomes {
    let mut order = memory::collect(0..claims.len());
    order.sort_unstable_by_key(|n| claims[*n]);
    let mut outcomes = memory::collect(claims.iter().map(|_| ""));
    for n in order {
        outcomes[n] = end(claims[n]);
    }
    TableIterator::new(claims.into_iter().map(|claim| claim.to_string()).zip(outcomes))
}

/// Gives work back: the attempts do not count.
#[pgrx::pg_extern(sql = false)]
fn release_claims(claims: Option<Array<'_, &'_ str>>, delay: Option<Interval>) -> Outcomes {
    rights::refuse_restricted_operation();
    let claims = claims_of(claims);
    let delay = self::delay("delay", delay);
    outcomes(claims, |claim| {
        let metadata = Jsonb::object_of("reason", "released");
        match end::end(claim, End::Release, metadata, |held| held.released(delay)) {
            Ended::Now(State::Retrying, _) | Ended::Before(State::Retrying, _) => "released",
            Ended::Now(..) | Ended::Before(..) => "cancelled",
            Ended::Lost(_) => "lost",
        }
    })
}

/// Renews leases; null: as long as each was claimed for.
#[pgrx::pg_extern(sql = false)]
fn renew_claims(claims: Option<Array<'_, &'_ str>>, lease: Option<Interval>) -> Outcomes {
    rights::refuse_restricted_operation();
    let claims = claims_of(claims);
    let lease = lease.map(|lease| positive("lease", Some(lease)));
    outcomes(claims, |claim| end::renew(claim, lease))
}

type Reaped = TableIterator<'static, (name!(worker, String), name!(reason, String), name!(state, &'static str))>;

/// Ends a claim whose time has run out. Returns no row if it has not, or if another transaction changes the task. For
/// reap_claims().
#[pgrx::pg_extern(sql = false)]
fn reap_claim(task_instance_id: pgrx::Uuid) -> Reaped {
    rights::refuse_restricted_operation();
    let expired = end::expire(Uuid(*task_instance_id.as_bytes()));
    TableIterator::new(expired.into_iter().map(|claim| (claim.worker, claim.reason, claim.state.as_str())))
}

/// Asks the holder of a running task to stop. Returns whether the task runs.
#[pgrx::pg_extern(sql = false)]
fn note_cancel(task_instance_id: pgrx::Uuid) -> bool {
    rights::refuse_restricted_operation();
    end::note_cancel(Uuid(*task_instance_id.as_bytes()))
}
