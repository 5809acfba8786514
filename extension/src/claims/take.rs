//! Taking tasks from queues.

use super::busy::{self, Passed};
use super::runs::{Blocked, Runs};
use super::token::Claim;
use super::walk::{Candidate, Walk};
use super::{leases, refused};
use crate::append::Words;
use crate::call::{self, Call, Request};
use crate::direct::{Current, Entities, Move, Step};
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::heap::{Heap, Wait};
use crate::ffi::jsonb::{Jsonb, JsonbCopy};
use crate::ffi::lane::Sight;
use crate::ffi::places::LANES;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{clock, monotonic};
use crate::ffi::{session, snapshot, transaction};
use crate::hold::Given;
use crate::parked::{self, Parked};
use crate::places::{self, Start};
use crate::queues::{self, Queue};
use crate::ready::{self, PRIORITY, Ready, ReadyColumns};
use crate::{append, dependencies, joins, memory, rights};
use pg_workflow_state_machine::State;
use pgrx::datum::Interval;
use pgrx::pg_sys::{self, Datum};
use std::cell::Cell;
use std::time::Duration;

/// A task that was taken.
pub struct Taken {
    pub claim: Claim,
    pub dag: Uuid,
    pub run: Uuid,
    pub task_id: String,
    pub try_number: i32,
    pub conf: JsonbCopy,
    pub timeout: Option<Interval>,
    pub lease_expires_at: i64,
}

/// The parts of a task that its row has.
struct Task {
    run: Uuid,
    task_id: String,
    try_number: i32,
    timeout: Option<Interval>,
}

/// Rows of `ready` that a call removes from the way: of tasks of a blocked run, and of tasks that do not wait any more.
const MOST_PARKED: usize = 100;
const MOST_DROPPED: usize = 1000;

/// A call that takes tasks.
pub struct Taking<'a> {
    worker: &'a str,
    now: i64,
    lease: i64,
    lease_expires_at: i64,
    /// How many tasks to take, in all.
    max: usize,
    entities: Option<Entities>,
    ready: Heap,
    columns: ReadyColumns,
    runs: Runs,
    /// The number of the call in its session.
    number: usize,
    began: i64,
    made: Vec<append::Transition>,
    parked: Vec<Parked>,
    dropped: usize,
    /// Tasks that other transactions change, and those that an earlier call has met so.
    busy: usize,
    passed: usize,
    /// Those of the busy ones whose claim the database refuses.
    refused: usize,
    /// Whether the role may UPDATE tasks, as far as it was asked.
    has_right: bool,
    taken: Vec<Taken>,
}

impl<'a> Taking<'a> {
    pub fn new(worker: &'a str, lease: i64, max: usize) -> Taking<'a> {
        if transaction::has_fixed_snapshot() {
            errors::fixed_snapshot("claim tasks");
        }
        if !call::is_none() {
            errors::nested_claim();
        }
        session::refuse_read_only(c"claim_tasks()");
        dependencies::look_before_claim();
        let (ready, now) = (ready::open(), clock());
        let entities = Entities::open(EntityType::TaskInstance);
        entities.iter().for_each(|entities| entities.heap.check_publications());
        Taking {
            worker,
            now,
            lease,
            lease_expires_at: now.saturating_add(lease),
            max,
            entities,
            columns: ReadyColumns::of(&ready),
            ready,
            runs: Runs::default(),
            number: next_number(),
            began: monotonic(),
            made: Vec::new(),
            parked: Vec::new(),
            dropped: 0,
            busy: 0,
            passed: 0,
            refused: 0,
            has_right: false,
            taken: Vec::new(),
        }
    }

    /// Takes tasks from the queues with these names, in their order.
    pub fn take_from_all(mut self, names: &[String]) -> Vec<Taken> {
        for name in names {
            let mut queues = queues::named(session::user(), name);
            if queues.is_empty() {
                errors::unknown_queue(name);
            }
            // Each tenant's comes first in turn, also when it is the turn of the oldest.
            let first = (self.number + self.number / TURN_OF_OLDEST) % queues.len().max(1);
            queues.rotate_left(first);
            queues.iter().for_each(|queue| self.take_from(queue));
        }
        self.note_busy();
        leases::note_claims(self.taken.iter().map(|taken| &taken.claim));
        let Taking { entities, made, parked, taken, ready, worker, mut runs, .. } = self;
        if let Some(entities) = entities {
            let words = Words { metadata: Jsonb::object_of("worker", worker), request_id: None };
            entities.record(&made, &[], |_| words);
        }
        ready.close();
        parked::park(&parked);
        runs.queued().for_each(|run| dependencies::start(run, session::user()));
        taken
    }

    fn is_done(&self, wanted: usize) -> bool {
        self.taken.len() >= wanted
            || self.parked.len() >= MOST_PARKED
            || self.dropped >= MOST_DROPPED
            || self.busy >= busy::MOST
    }

    fn is_turn_of_oldest(&self) -> bool {
        self.number.is_multiple_of(TURN_OF_OLDEST)
    }

    fn note_busy(&self) {
        let is_in_vain = self.taken.is_empty() && self.busy + self.passed > 0;
        let took = Duration::from_micros(u64::try_from(monotonic() - self.began).unwrap_or(0));
        let took = if self.refused == self.busy { took.max(busy::OF_REFUSED) } else { took };
        busy::note_call(is_in_vain.then_some(took), self.busy >= busy::MOST);
    }

    fn take_from(&mut self, queue: &Queue) {
        if queue.paused_until.is_some_and(|until| until > self.now) || self.is_done(self.max) {
            return;
        }
        let room = self.max - self.taken.len();
        let free = queue.slots.map(|_| queues::free_slots(queue.id));
        if free == Some(None) {
            // Another claim holds the lock of the slots.
            self.busy += 1;
        }
        if free == Some(Some(0)) {
            places::note_refusal(queue.id);
        }
        let room = free.unwrap_or(Some(room)).map_or(0, |free| free.min(room));
        if room == 0 {
            return;
        }
        let wanted = self.taken.len() + room;
        let start = Start::read(queue.id);
        let seen = self.with_walk(queue.id, &start, |this, walk| {
            if this.is_turn_of_oldest() {
                this.take_oldest(walk);
            }
            walk.go_to(0);
            this.take_in_order(walk, wanted, queue.id);
        });
        if self.is_turn_of_oldest() && self.busy < busy::MOST {
            busy::forget_passed(queue.id);
        }
        start.finish(queue.id, &seen);
        places::note_claim(queue.id);
    }

    /// Reads the rows of a queue by a new snapshot, which does not show what earlier calls have deleted.
    fn with_walk(
        &mut self,
        queue: i32,
        start: &Start,
        work: impl FnOnce(&mut Self, &mut Walk),
    ) -> [Option<i64>; LANES] {
        transaction::next_command();
        snapshot::with_latest(|| {
            let mut walk = Walk::begin(&self.ready, self.columns, queue, start, self.now, Sight::Snapshot);
            work(self, &mut walk);
            let seen = walk.seen;
            walk.close();
            seen
        })
    }

    /// Takes the tasks that are due, by priority. Steps over those that earlier calls have met locked, but for the turn of the
    /// oldest.
    fn take_in_order(&mut self, walk: &mut Walk, wanted: usize, queue: i32) {
        let mut passed = if self.is_turn_of_oldest() { Passed::default() } else { busy::passed(queue) };
        let mut met = Passed::default();
        while !self.is_done(wanted) {
            let Some(step) = walk.next() else { break };
            let lane = step.found.priority as usize % LANES;
            if step.found.ready_at > self.now {
                walk.leave_lane();
            } else if met[lane] < passed[lane] {
                met[lane] += 1;
                self.passed += 1;
            } else {
                let before = self.busy;
                self.visit(step);
                met[lane] += self.busy - before;
                if self.busy >= busy::MOST {
                    passed[..=lane].copy_from_slice(&met[..=lane]);
                    busy::note_passed(queue, passed);
                }
            }
        }
    }

    /// Takes the task that waits for the longest time.
    fn take_oldest(&mut self, walk: &mut Walk) {
        let wanted = self.taken.len() + 1;
        let mut oldest: Option<(i64, i16)> = None;
        while let Some(Candidate { found, .. }) = walk.next() {
            if found.ready_at <= self.now && oldest.is_none_or(|(time, _)| found.ready_at < time) {
                oldest = Some((found.ready_at, found.priority));
            }
            walk.leave_lane();
        }
        let Some((_, priority)) = oldest else { return };
        walk.go_to(priority);
        while !self.is_done(wanted) {
            match walk.next() {
                Some(step) if step.found.priority == priority && step.found.ready_at <= self.now => self.visit(step),
                _ => break,
            }
        }
    }

    /// Takes a task, or removes its row if it cannot be claimed there any more. The row of a task that another transaction
    /// changes stays, so that others find it as soon as that has ended.
    fn visit(&mut self, Candidate { found, place, is_being_deleted }: Candidate) {
        if is_being_deleted {
            // Another claim takes it: no need to look at the task.
            return;
        }
        match self.take(&found) {
            Outcome::Taken(taken) => {
                self.ready.delete(place);
                memory::push(&mut self.taken, taken);
            }
            Outcome::Busy => self.busy += 1,
            Outcome::Refused => {
                self.busy += 1;
                self.refused += 1;
            }
            Outcome::Stale => self.dropped += usize::from(self.ready.delete(place)),
            // It can have two rows, and another claim parks it by the other one.
            Outcome::Blocked(_) if !parked::lock(found.task) => self.busy += 1,
            Outcome::Blocked(run) => {
                if self.ready.delete(place) {
                    memory::push(&mut self.parked, Parked { run, task: found.task });
                }
            }
        }
    }

    /// Returns the values that a task gets with its claim.
    fn given(&self) -> Given<'a> {
        Given { worker: Some(self.worker), lease_expires_at: Some(self.lease_expires_at), ..Given::default() }
    }

    fn take(&mut self, found: &Ready) -> Outcome {
        self.take_directly(found).unwrap_or_else(|| self.take_by_statement(found))
    }

    /// Takes a task by the direct path; `None` if that cannot.
    fn take_directly(&mut self, found: &Ready) -> Option<Outcome> {
        let given = self.given();
        let Taking { entities, runs, .. } = self;
        let entities = entities.as_ref()?;
        let (claim, task_columns) = (entities.columns.task?.claim?, entities.columns.task?);
        let mut task = None;
        let mut blocked = None;
        let decide = |row: &Row, current: Current| {
            let place = (row.i32(claim.queue_id), row.i16(claim.priority).unwrap_or(PRIORITY), current.version);
            let is_later = row.i64(claim.not_before).is_some_and(|time| time > found.ready_at);
            if !ready::waits(current.state)
                || place != (Some(found.queue_id), found.priority, found.version)
                || is_later
            {
                return None;
            }
            let is_before_attempt = ready::is_before_attempt(current.state, current.start_date);
            if is_before_attempt && task_columns.join_id.is_some_and(|join| waits(row.uuid(join))) {
                return None;
            }
            let run = row.uuid(entities.columns.parent)?;
            let state = runs.get(run).map_or(Blocked::Perhaps, |run| run.blocked);
            blocked = Some((run, state));
            task = Some(Task {
                run,
                task_id: memory::copy(row.text(task_columns.task_id)?),
                try_number: row.i32(task_columns.try_number)?.saturating_add(1),
                timeout: row.interval(claim.timeout),
            });
            (state == Blocked::No).then_some(Move { to: State::Running, error: None, given })
        };
        Some(match entities.transition(found.task, Wait::Never, decide) {
            Step::Made(made, _) => {
                runs.note_claim(made.parent);
                let (version, start_date) = (made.version, made.changed_at);
                let claim = Claim { task: found.task, version, start_date, lease: self.lease };
                memory::push(&mut self.made, made);
                self.taken(claim, task?)
            }
            Step::Locked => Outcome::Busy,
            // Also a task that this transaction has created.
            Step::Concurrent => return None,
            Step::Unexpected => match blocked {
                None | Some((_, Blocked::No)) => Outcome::Stale,
                Some((run, Blocked::Yes)) => Outcome::Blocked(run),
                Some((_, Blocked::Perhaps)) => Outcome::Busy,
            },
        })
    }

    fn taken(&self, claim: Claim, task: Task) -> Outcome {
        let Some(run) = self.runs.known(task.run) else { return Outcome::Stale };
        Outcome::Taken(Taken {
            claim,
            dag: run.dag,
            run: task.run,
            task_id: task.task_id,
            try_number: task.try_number,
            conf: run.conf.clone(),
            timeout: task.timeout,
            lease_expires_at: self.lease_expires_at,
        })
    }

    /// Takes a task by an UPDATE, which fires the triggers of others.
    fn take_by_statement(&mut self, found: &Ready) -> Outcome {
        thread_local! {
            static LOOK_UP: Plan = Plan::new(
                "SELECT t.dag_run_id, COALESCE(t.join_id, '00000000-0000-0000-0000-000000000000') \
                 FROM workflow.task_instances AS t \
                 WHERE t.id OPERATOR(pg_catalog.=) $1 AND t.version OPERATOR(pg_catalog.=) $2 \
                     AND '{queued,retrying}'::pg_catalog.text[] OPERATOR(pg_catalog.@>) ARRAY[t.state] \
                     AND t.queue_id OPERATOR(pg_catalog.=) $3 \
                     AND COALESCE(t.priority, 5) OPERATOR(pg_catalog.=) $4 \
                     AND (t.not_before IS NULL OR t.not_before OPERATOR(pg_catalog.<=) $5)"
                    .to_owned(),
                &[pg_sys::UUIDOID, pg_sys::INT8OID, pg_sys::INT4OID, pg_sys::INT4OID, pg_sys::TIMESTAMPTZOID],
            );
            static UPDATE: Plan = Plan::new(
                "UPDATE workflow.task_instances AS t SET state = 'running' \
                 WHERE t.id OPERATOR(pg_catalog.=) ( \
                     SELECT l.id FROM workflow.task_instances AS l \
                     WHERE l.id OPERATOR(pg_catalog.=) $1 AND l.version OPERATOR(pg_catalog.=) $2 \
                         AND COALESCE(l.join_id, '00000000-0000-0000-0000-000000000000') OPERATOR(pg_catalog.=) $3 \
                     FOR NO KEY UPDATE SKIP LOCKED) \
                 RETURNING t.version, t.start_date, t.task_id, t.try_number, t.timeout"
                    .to_owned(),
                &[pg_sys::UUIDOID, pg_sys::INT8OID, pg_sys::UUIDOID],
            );
        }
        let values = [
            Some(found.task.as_datum()),
            Some(Datum::from(found.version)),
            Some(Datum::from(found.queue_id)),
            Some(Datum::from(i32::from(found.priority))),
            Some(Datum::from(found.ready_at)),
        ];
        let read = |rows: Rows| if rows.len() > 0 { rows.uuid(0, 1).zip(rows.uuid(0, 2)) } else { None };
        // A task that only this role may not see is no stale one.
        let look_up = || LOOK_UP.with(|plan| plan.run(&values, read));
        let Some((run, join)) = rights::as_owner_of(EntityType::TaskInstance.relation(), look_up) else {
            return Outcome::Stale;
        };
        if waits_by_statement(found.task) {
            return Outcome::Stale;
        }
        if refused::rests(found.task, found.version) {
            return Outcome::Refused;
        }
        match self.runs.get(run).map(|run| run.blocked) {
            Some(Blocked::No) => {}
            Some(Blocked::Yes) => return Outcome::Blocked(run),
            Some(Blocked::Perhaps) | None => return Outcome::Busy,
        }
        let metadata = Jsonb::object_of("worker", self.worker);
        let request = Request::new(vec![found.task], metadata, None).giving(self.given());
        let read = |rows: Rows| {
            (rows.len() > 0).then(|| {
                let (version, start_date) = (rows.i64(0, 1), rows.i64(0, 2));
                let claim = Claim { task: found.task, version, start_date, lease: self.lease };
                let task = Task {
                    run,
                    task_id: memory::copy(rows.text(0, 3).unwrap_or_default()),
                    try_number: rows.get(0, 4).map_or(0, |value| value.value() as i32),
                    timeout: rows.interval(0, 5),
                };
                (claim, task)
            })
        };
        // A task that has got another join meanwhile waits for others.
        let values = [values[0], values[1], Some(join.as_datum())];
        let update = || UPDATE.with(|plan| plan.run(&values, read));
        // As this role: a warning must not tell of a task that a policy hides from it.
        let can_lock = || refused::can_lock(found.task, found.version, Some(join));
        let take = || call::during(Call::Transition(request), || refused::change(update, can_lock));
        if !std::mem::replace(&mut self.has_right, true) {
            refused::check_right();
        }
        match refused::attempt(take) {
            Ok(Some((claim, _))) if claim.version != found.version + 1 => errors::unguarded_claim("claim", claim.task),
            Ok(Some((claim, task))) => {
                self.runs.note_claim(run);
                self.taken(claim, task)
            }
            Ok(None) => Outcome::Busy,
            Err(failure) => {
                errors::refused_task("claim", found.task, REFUSED, &failure);
                if failure.is_conflict() {
                    return Outcome::Busy;
                }
                refused::rest(found.task, found.version);
                Outcome::Refused
            }
        }
    }
}

/// The hint of a refused claim.
const REFUSED: &str = "Remove the cause, or move the task by hand. The session tries again after 10 s.";

/// Whether the join of a task is undecided.
fn waits(join: Option<Uuid>) -> bool {
    join.is_some_and(joins::waits::waits)
}

/// Whether a task waits for others.
fn waits_by_statement(task: Uuid) -> bool {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT FROM workflow.task_instances AS t \
             JOIN workflow.waits AS w ON w.join_id OPERATOR(pg_catalog.=) t.join_id \
             WHERE t.id OPERATOR(pg_catalog.=) $1 AND workflow.is_before_attempt(t.state, t.start_date) LIMIT 1"
                .to_owned(),
            &[pg_sys::UUIDOID],
        );
    }
    let look_up = || LOOK_UP.with(|plan| plan.run(&[Some(task.as_datum())], |rows| rows.len() > 0));
    rights::as_owner_of(EntityType::TaskInstance.relation(), look_up)
}

enum Outcome {
    Taken(Taken),
    /// The task does not wait there any more.
    Stale,
    /// Another transaction changes the task.
    Busy,
    /// The database refuses the claim, for example in a trigger.
    Refused,
    /// No task of its run may start.
    Blocked(Uuid),
}

/// Every 16th call of a session first takes the task that waits for the longest time, whatever its priority.
const TURN_OF_OLDEST: usize = 16;

fn next_number() -> usize {
    thread_local! {
        static CALLS: Cell<usize> = const { Cell::new(0) };
    }
    CALLS.set(CALLS.get() + 1);
    CALLS.get()
}
