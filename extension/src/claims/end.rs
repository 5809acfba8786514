//! Ending claims: by their holders, and when their time has run out.

use super::late;
use super::leases::{self, Held};
use super::token::Claim;
use crate::append::Words;
use crate::call::{self, Call, Request};
use crate::columns::{ClaimColumns, TaskColumns};
use crate::direct::{Current, Entities, Move, Step};
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::heap::Wait;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{clock, text_datum};
use crate::hold::Given;
use crate::managed::error_of;
use crate::{memory, requests, rights};
use pg_workflow_state_machine::State;
use pgrx::pg_sys::{self, Datum};

/// The part of a claimed task that decides what follows.
#[derive(Clone, Copy)]
struct Tried {
    /// Attempts that count against max_tries.
    tries: i32,
    max_tries: i32,
    is_cancelled: bool,
}

impl Tried {
    fn of(row: &Row, task: &TaskColumns, claim: &ClaimColumns) -> Tried {
        let tries = row.i32(task.try_number).unwrap_or(0);
        Tried {
            tries: tries.saturating_sub(row.i32(claim.uncounted_tries).unwrap_or(0)),
            max_tries: row.i32(claim.max_tries).unwrap_or(0),
            is_cancelled: row.i64(claim.cancel_requested_at).is_some(),
        }
    }

    /// Returns where the task goes after a failure. A negative time: it is not retried.
    fn after_failure(self, retry_after: Option<i64>) -> Verdict {
        if self.is_cancelled || self.tries >= self.max_tries || retry_after.is_some_and(|time| time < 0) {
            return Verdict::to(State::Failed);
        }
        let delay = retry_after.unwrap_or_else(|| self.backoff());
        Verdict { not_before: Some(clock().saturating_add(delay)), ..Verdict::to(State::Retrying) }
    }

    /// Returns where the task goes if its holder gives it back.
    fn released(self, delay: i64) -> Verdict {
        if self.is_cancelled {
            return Verdict::to(State::Failed);
        }
        let not_before = (delay > 0).then(|| clock().saturating_add(delay));
        Verdict { to: State::Retrying, not_before, is_uncounted: true }
    }

    /// The time until the next try: 2 s, 4 s, 8 s … up to an hour, by a quarter more or less.
    fn backoff(self) -> i64 {
        const LONGEST: i64 = 3600;
        let exponent = u32::try_from(self.tries.clamp(1, 12)).unwrap_or(1);
        let seconds = 2i64.pow(exponent).min(LONGEST);
        // The clock's microseconds are as good as random here.
        seconds * (750_000 + clock().rem_euclid(500_001))
    }
}

/// Where a task goes at the end of its claim.
#[derive(Clone, Copy)]
struct Verdict {
    to: State,
    not_before: Option<i64>,
    is_uncounted: bool,
}

impl Verdict {
    fn to(state: State) -> Verdict {
        Verdict { to: state, not_before: None, is_uncounted: false }
    }

    fn given(self) -> Given<'static> {
        Given { not_before: self.not_before, is_uncounted: self.is_uncounted, ..Given::default() }
    }
}

/// The task's state and version.
pub enum Ended {
    Now(State, i64),
    /// An earlier call has ended the claim.
    Before(State, i64),
    /// The claim ended otherwise. `None`: the task does not exist.
    Lost(Option<(String, i64)>),
}

impl Ended {
    /// Returns the state and version. Raises an error if the claim is lost.
    pub fn or_raise(self, claim: Claim) -> (State, i64) {
        match self {
            Ended::Now(state, version) | Ended::Before(state, version) => (state, version),
            Ended::Lost(now) => raise_lost(claim, now),
        }
    }
}

/// Raises the error of a lost claim, with the task's state and version.
pub fn raise_lost(claim: Claim, now: Option<(String, i64)>) -> ! {
    let now = now.as_ref().map(|(state, version)| (state.as_str(), *version));
    errors::lost_claim(&claim.to_string(), claim.task, now)
}

/// How a holder ends a claim.
#[derive(Clone, Copy)]
pub enum End {
    Success,
    /// In how many microseconds it is tried again; `None`: as many as follow from the number of tries; negative: never.
    Failure(Option<i64>),
    /// In how many microseconds it can be claimed again.
    Release(i64),
}

impl End {
    fn verdict(self, tried: Tried) -> Verdict {
        match self {
            End::Success => Verdict::to(State::Success),
            End::Failure(retry_after) => tried.after_failure(retry_after),
            End::Release(delay) => tried.released(delay),
        }
    }

    /// Whether a call of this kind can have led to a state. A failure and a release depend on the attempts that are left.
    fn leads_to(self, state: State) -> bool {
        match self {
            End::Success => state == State::Success,
            End::Failure(_) | End::Release(_) => matches!(state, State::Failed | State::Retrying),
        }
    }
}

/// The word of a holder that ends its claim.
pub struct Word {
    pub claim: Claim,
    pub end: End,
    pub metadata: Jsonb,
}

impl Word {
    /// The request_id of the transition. It is unique in the history of the task, which has the rest of the claim.
    fn request_id(&self) -> String {
        match self.end {
            End::Success | End::Failure(_) => format!("claim {}", self.claim.version),
            End::Release(_) => format!("release {}", self.claim.version),
        }
    }

    fn end(&self) -> Ended {
        let request_id = self.request_id();
        let decide = |tried| self.end.verdict(tried);
        if let Some((state, version)) = end_by_statement(self.claim, self.metadata, Some(&request_id), decide) {
            return Ended::Now(state, version);
        }
        // Row security may hide the task from the caller.
        let Some(now) = state_of(self.claim.task) else { return Ended::Lost(None) };
        // An earlier call, whose answer was lost.
        match ended_before(self.claim, &request_id).filter(|(state, _)| self.end.leads_to(*state)) {
            Some((state, version)) => Ended::Before(state, version),
            None => Ended::Lost(Some(now)),
        }
    }
}

/// Ends one claim.
pub fn end(word: Word) -> Ended {
    end_all(&[word]).pop().unwrap_or(Ended::Lost(None))
}

/// Ends claims. In the order of their tasks, so that two batches do not deadlock.
pub fn end_all(words: &[Word]) -> Vec<Ended> {
    let mut order = memory::collect(0..words.len());
    // Of two words for one claim the first one counts.
    order.sort_by_key(|n| words[*n].claim);
    let mut ended = memory::collect(words.iter().map(|_| Ended::Lost(None)));
    let mut rest = &order[..];
    while !rest.is_empty() {
        let made = end_directly(words, rest, &mut ended);
        rest = &rest[made..];
        if let Some((n, others)) = rest.split_first() {
            ended[*n] = words[*n].end();
            rest = others;
        }
    }
    for (word, _) in words.iter().zip(&ended).filter(|(_, ended)| matches!(ended, Ended::Now(..))) {
        leases::note_end(&word.claim);
    }
    ended
}

/// Whether a task is held by this claim.
pub fn holds(claim: Claim, current: Current) -> bool {
    current.state == State::Running && current.version == claim.version && current.start_date == Some(claim.start_date)
}

/// Ends claims in this order by the direct path, up to one that it cannot end. Returns how many.
fn end_directly(words: &[Word], order: &[usize], ended: &mut [Ended]) -> usize {
    let Some(entities) = Entities::open(EntityType::TaskInstance) else { return 0 };
    let columns = entities.columns.task.and_then(|task| Some((task, task.claim?)));
    entities.heap.check_publications();
    let (mut made, mut ready, mut request_ids) = (Vec::new(), Vec::new(), Vec::new());
    for n in order {
        let Word { claim, end, metadata } = &words[*n];
        let choose = |row: &Row, current: Current| {
            let (task, of_claim) = columns.filter(|_| holds(*claim, current))?;
            let verdict = end.verdict(Tried::of(row, &task, &of_claim));
            let error = error_of(verdict.to, *metadata);
            Some(Move { to: verdict.to, error, given: verdict.given() })
        };
        let Step::Made(step, waits) = entities.transition(claim.task, Wait::Always, choose) else { break };
        ended[*n] = Ended::Now(step.to, step.version);
        memory::push(&mut made, step);
        waits.into_iter().for_each(|row| memory::push(&mut ready, row));
        memory::push(&mut request_ids, words[*n].request_id());
    }
    let words = |n: usize| Words { metadata: words[order[n]].metadata, request_id: Some(&request_ids[n]) };
    entities.record(&made, &ready, words);
    made.len()
}

/// Locks the task, and moves it by an UPDATE.
fn end_by_statement(
    claim: Claim,
    metadata: Jsonb,
    request_id: Option<&str>,
    decide: impl Fn(Tried) -> Verdict,
) -> Option<(State, i64)> {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT t.try_number, COALESCE(t.uncounted_tries, 0), t.max_tries, t.cancel_requested_at IS NOT NULL \
             FROM workflow.task_instances AS t \
             WHERE t.id OPERATOR(pg_catalog.=) $1 AND t.version OPERATOR(pg_catalog.=) $2 \
                 AND t.start_date OPERATOR(pg_catalog.=) $3 AND ARRAY[t.state] OPERATOR(pg_catalog.=) '{running}' \
             FOR NO KEY UPDATE"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::INT8OID, pg_sys::TIMESTAMPTZOID],
        );
        static UPDATE: Plan = Plan::new(
            "UPDATE workflow.task_instances AS t SET state = $2 WHERE t.id OPERATOR(pg_catalog.=) $1 RETURNING t.version"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::TEXTOID],
        );
    }
    let id = Some(claim.task.as_datum());
    let values = [id, Some(Datum::from(claim.version)), Some(Datum::from(claim.start_date))];
    let read = |rows: Rows| {
        let int = |column| rows.get(0, column).map_or(0, |value| value.value() as i32);
        (rows.len() > 0).then(|| Tried {
            tries: int(1).saturating_sub(int(2)),
            max_tries: int(3),
            is_cancelled: rows.get(0, 4).is_some_and(|value| value.value() != 0),
        })
    };
    let verdict = decide(LOCK.with(|plan| plan.run(&values, read))?);
    let request = Request::new(vec![claim.task], metadata, request_id).giving(verdict.given());
    let values = [id, Some(text_datum(verdict.to.as_str()))];
    let version = call::during(Call::Transition(request), || {
        UPDATE.with(|plan| plan.run(&values, |rows| (rows.len() > 0).then(|| rows.i64(0, 1))))
    })
    .unwrap_or_else(|| errors::withheld_end(claim.task));
    if version != claim.version + 1 {
        errors::unguarded_claim("end the claim of", claim.task);
    }
    Some((verdict.to, version))
}

/// Returns the state and version to which an earlier call moved the task by this claim.
///
/// The request_id has the version of the claim, and the event of that version has its time.
fn ended_before(claim: Claim, request_id: &str) -> Option<(State, i64)> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT h.new_state, h.version FROM workflow.state_history AS h \
             WHERE h.entity_id OPERATOR(pg_catalog.=) $1 AND h.request_id OPERATOR(pg_catalog.=) $2 \
                 AND h.id OPERATOR(pg_catalog.>=) $3 AND h.id OPERATOR(pg_catalog.<=) $4 \
                 AND EXISTS ( \
                     SELECT FROM workflow.state_history AS c \
                     WHERE c.entity_id OPERATOR(pg_catalog.=) $1 AND c.version OPERATOR(pg_catalog.=) $5 \
                         AND c.changed_at OPERATOR(pg_catalog.=) $6)"
                .to_owned(),
            &[
                pg_sys::UUIDOID,
                pg_sys::TEXTOID,
                pg_sys::INT8OID,
                pg_sys::INT8OID,
                pg_sys::INT8OID,
                pg_sys::TIMESTAMPTZOID,
            ],
        );
    }
    let [first, last] = requests::find(claim.task, request_id)?.map(|id| Some(Datum::from(id)));
    let values = [
        Some(claim.task.as_datum()),
        Some(text_datum(request_id)),
        first,
        last,
        Some(Datum::from(claim.version)),
        Some(Datum::from(claim.start_date)),
    ];
    let read = |rows: Rows| (rows.len() > 0).then(|| Some((rows.text(0, 1)?.parse().ok()?, rows.i64(0, 2)))).flatten();
    // The holder of the claim may know how it ended.
    rights::as_owner_of(c"state_history", || LOOK_UP.with(|plan| plan.run(&values, read)))
}

fn state_of(task: Uuid) -> Option<(String, i64)> {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT t.state, t.version FROM workflow.task_instances AS t WHERE t.id OPERATOR(pg_catalog.=) $1".to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let read =
        |rows: Rows| (rows.len() > 0).then(|| (memory::copy(rows.text(0, 1).unwrap_or_default()), rows.i64(0, 2)));
    LOOK_UP.with(|plan| plan.run(&[Some(task.as_datum())], read))
}

/// Raises the error of a lost claim.
pub fn refuse_lost(claim: Claim) -> ! {
    raise_lost(claim, state_of(claim.task))
}

/// A claim whose time had run out.
pub struct Expired {
    pub worker: String,
    pub reason: &'static str,
    pub state: State,
}

/// Ends a claim whose time has run out; `None` if it is renewed or ended meanwhile, or if another transaction changes the
/// task.
pub fn expire(task: Uuid) -> Option<Expired> {
    thread_local! {
        static LOCK: Plan = Plan::new(
            "SELECT t.version, t.start_date, t.worker, t.lease_expires_at, \
                 t.start_date OPERATOR(pg_catalog.+) t.timeout OPERATOR(pg_catalog.<) pg_catalog.clock_timestamp() \
             FROM workflow.task_instances AS t \
             WHERE t.id OPERATOR(pg_catalog.=) $1 AND ARRAY[t.state] OPERATOR(pg_catalog.=) '{running}' \
                 AND t.worker IS NOT NULL \
             FOR NO KEY UPDATE SKIP LOCKED"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let read = |rows: Rows| {
        (rows.len() > 0).then(|| {
            let claim = Claim { task, version: rows.i64(0, 1), start_date: rows.i64(0, 2), lease: 1 };
            let held = Held { claim, lease_expires_at: rows.i64(0, 4) };
            let is_too_long = rows.get(0, 5).is_some_and(|value| value.value() != 0);
            (held, memory::copy(rows.text(0, 3).unwrap_or_default()), is_too_long)
        })
    };
    let row = late::read(task);
    let Some((held, worker, is_too_long)) = LOCK.with(|plan| plan.run(&[Some(task.as_datum())], read)) else {
        row.into_iter().for_each(|row| late::note_locked(task, row));
        return None;
    };
    let is_late = held.has_expired() && !row.is_some_and(|row| late::has_time(&held, row));
    let reason = if is_late { Some("lease expired") } else { is_too_long.then_some("timeout") }?;
    let metadata = Jsonb::of(&serde_json::json!({ "error": reason, "reason": reason, "worker": worker }));
    // Without a request_id: no word of the holder is repeated.
    let (state, _) = end_by_statement(held.claim, metadata, None, |tried| tried.after_failure(None))?;
    leases::note_end(&held.claim);
    Some(Expired { worker, reason, state })
}

/// Asks the holder of a running task to stop. Returns whether it runs.
pub fn note_cancel(task: Uuid) -> bool {
    thread_local! {
        static NOTE: Plan = Plan::new(
            "UPDATE workflow.task_instances AS t \
             SET cancel_requested_at = COALESCE(t.cancel_requested_at, pg_catalog.clock_timestamp()) \
             WHERE t.id OPERATOR(pg_catalog.=) $1 AND ARRAY[t.state] OPERATOR(pg_catalog.=) '{running}'"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    call::during(Call::Hold, || NOTE.with(|plan| plan.run(&[Some(task.as_datum())], |rows| rows.len() > 0)))
}
