//! Taking tasks from queues.

use super::runs::{Blocked, Runs};
use super::token::Claim;
use crate::call::{self, Call, Request};
use crate::direct::{Current, Entities, Move, Step};
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::heap::{Heap, Wait};
use crate::ffi::jsonb::{Jsonb, JsonbCopy};
use crate::ffi::lane::{Begin, Lanes, Sight};
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::clock;
use crate::ffi::{session, snapshot, transaction};
use crate::hold::Given;
use crate::queues::{self, Queue};
use crate::ready::{self, PRIORITY, Ready, ReadyColumns};
use crate::{append, memory};
use pg_workflow_state_machine::State;
use pgrx::datum::Interval;
use pgrx::pg_sys::{self, Datum, ItemPointerData};
use std::cell::Cell;

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
/// Rows that a call puts back because other transactions change their tasks.
const MOST_BUSY: usize = 100;
/// The time of rows that no claim reaches.
const NEVER: i64 = i64::MAX;

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
    made: Vec<append::Transition>,
    /// Rows to put back, perhaps for another time.
    put_back: Vec<Ready>,
    parked: usize,
    dropped: usize,
    busy: usize,
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
            made: Vec::new(),
            put_back: Vec::new(),
            parked: 0,
            dropped: 0,
            busy: 0,
            taken: Vec::new(),
        }
    }

    /// Takes tasks from the queues with these names, in their order.
    pub fn take_from_all(mut self, names: &[String]) -> Vec<Taken> {
        for name in names {
            let queues = queues::named(session::user(), name);
            if queues.is_empty() {
                errors::unknown_queue(name);
            }
            queues.iter().for_each(|queue| self.take_from(queue));
        }
        let Taking { entities, made, put_back, taken, ready, worker, .. } = self;
        if let Some(entities) = entities {
            entities.record(&made, &[], Jsonb::object_of("worker", worker), None);
        }
        ready.close();
        ready::put_back(&put_back);
        taken
    }

    fn is_done(&self, wanted: usize) -> bool {
        self.taken.len() >= wanted
            || self.parked >= MOST_PARKED
            || self.dropped >= MOST_DROPPED
            || self.busy >= MOST_BUSY
    }

    fn take_from(&mut self, queue: &Queue) {
        if queue.paused_until.is_some_and(|until| until > self.now) || self.is_done(self.max) {
            return;
        }
        let room = self.max - self.taken.len();
        let room =
            if queue.slots.is_none() { Some(room) } else { queues::free_slots(queue.id).map(|free| free.min(room)) };
        let Some(room) = room.filter(|room| *room > 0) else { return };
        let wanted = self.taken.len() + room;
        if is_turn_of_oldest() {
            self.with_lanes(queue.id, |this, lanes, begin| this.take_oldest(lanes, begin));
        }
        self.with_lanes(queue.id, |this, lanes, begin| this.walk(lanes, begin, wanted));
    }

    /// Reads the rows of a queue by a new snapshot, which does not show what this call has deleted.
    fn with_lanes(&mut self, queue_id: i32, work: impl FnOnce(&mut Self, &mut Lanes, &mut Begin)) {
        let ReadyColumns { queue_id: queue, priority, ready_at, .. } = self.columns;
        let mut begin = Begin { columns: [queue, priority, ready_at], queue_id, priority: 0 };
        transaction::next_command();
        snapshot::with_latest(|| {
            let mut lanes = ready::lanes(&self.ready, &begin, Sight::Snapshot);
            work(self, &mut lanes, &mut begin);
            lanes.close();
        });
    }

    /// Takes the tasks that are due, by priority.
    fn walk(&mut self, lanes: &mut Lanes, begin: &mut Begin, wanted: usize) {
        while !self.is_done(wanted) {
            let Some((row, place)) = lanes.next() else { break };
            let found = self.columns.read(&row);
            if found.ready_at <= self.now {
                self.visit(found, place);
            } else if found.priority < ready::LOWEST_PRIORITY {
                // Nothing more is due in this lane.
                begin.priority = found.priority + 1;
                lanes.restart(begin);
            } else {
                break;
            }
        }
    }

    /// Takes the task that waits for the longest time.
    fn take_oldest(&mut self, lanes: &mut Lanes, begin: &mut Begin) {
        let wanted = self.taken.len() + 1;
        if let Some(oldest) = self.oldest_lane(lanes, begin) {
            begin.priority = oldest;
            lanes.restart(begin);
            self.walk_lane(lanes, oldest, wanted);
        }
    }

    /// Takes tasks of one priority.
    fn walk_lane(&mut self, lanes: &mut Lanes, priority: i16, wanted: usize) {
        while !self.is_done(wanted) {
            let Some((row, place)) = lanes.next() else { return };
            let found = self.columns.read(&row);
            if found.priority != priority || found.ready_at > self.now {
                return;
            }
            self.visit(found, place);
        }
    }

    /// Returns the priority of the task that waits for the longest time.
    fn oldest_lane(&self, lanes: &mut Lanes, begin: &mut Begin) -> Option<i16> {
        let mut oldest: Option<(i64, i16)> = None;
        while let Some((row, _)) = lanes.next() {
            let found = self.columns.read(&row);
            if found.ready_at <= self.now && oldest.is_none_or(|(time, _)| found.ready_at < time) {
                oldest = Some((found.ready_at, found.priority));
            }
            if found.priority >= ready::LOWEST_PRIORITY {
                break;
            }
            begin.priority = found.priority + 1;
            lanes.restart(begin);
        }
        oldest.map(|(_, priority)| priority)
    }

    /// Takes a task, or drops its row if it does not wait there any more.
    fn visit(&mut self, found: Ready, place: ItemPointerData) {
        // Another transaction that takes it now has deleted the row, too.
        if !self.ready.delete(place) {
            return;
        }
        match self.take(&found) {
            Outcome::Taken(taken) => memory::push(&mut self.taken, taken),
            Outcome::Stale => self.dropped += 1,
            Outcome::Busy => {
                self.busy += 1;
                memory::push(&mut self.put_back, found);
            }
            Outcome::Blocked => {
                self.parked += 1;
                memory::push(&mut self.put_back, Ready { ready_at: NEVER, ..found });
            }
        }
    }

    fn take(&mut self, found: &Ready) -> Outcome {
        self.take_directly(found).unwrap_or_else(|| self.take_by_statement(found))
    }

    /// Takes a task by the direct path; `None` if that cannot.
    fn take_directly(&mut self, found: &Ready) -> Option<Outcome> {
        let Taking { entities, runs, worker, lease_expires_at, .. } = self;
        let entities = entities.as_ref()?;
        let (claim, task_columns) = (entities.columns.task?.claim?, entities.columns.task?);
        let given = Given { worker: Some(worker), lease_expires_at: Some(*lease_expires_at), ..Given::default() };
        let mut task = None;
        let mut blocked = Blocked::No;
        let decide = |row: &Row, current: Current| {
            let place = (row.i32(claim.queue_id), row.i16(claim.priority).unwrap_or(PRIORITY), current.version);
            let is_later = row.i64(claim.not_before).is_some_and(|time| time > found.ready_at);
            if !ready::waits(current.state)
                || place != (Some(found.queue_id), found.priority, found.version)
                || is_later
            {
                return None;
            }
            let run = row.uuid(entities.columns.parent)?;
            blocked = runs.get(run).map_or(Blocked::Perhaps, |run| run.blocked);
            task = Some(Task {
                run,
                task_id: memory::copy(row.text(task_columns.task_id)?),
                try_number: row.i32(task_columns.try_number)?.saturating_add(1),
                timeout: row.interval(claim.timeout),
            });
            (blocked == Blocked::No).then_some(Move { to: State::Running, error: None, given })
        };
        Some(match entities.transition(found.task, Wait::Never, decide) {
            Step::Made(made, _) => {
                let (version, start_date) = (made.version, made.changed_at);
                let claim = Claim { task: found.task, version, start_date, lease: self.lease };
                memory::push(&mut self.made, made);
                self.taken(claim, task?)
            }
            // Also a task that this transaction has created.
            Step::Concurrent => return None,
            Step::Unexpected => match blocked {
                Blocked::No => Outcome::Stale,
                Blocked::Yes => Outcome::Blocked,
                Blocked::Perhaps => Outcome::Busy,
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
                "SELECT t.dag_run_id FROM workflow.task_instances AS t \
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
                     FOR NO KEY UPDATE SKIP LOCKED) \
                 RETURNING t.version, t.start_date, t.task_id, t.try_number, t.timeout"
                    .to_owned(),
                &[pg_sys::UUIDOID, pg_sys::INT8OID],
            );
        }
        let values = [
            Some(found.task.as_datum()),
            Some(Datum::from(found.version)),
            Some(Datum::from(found.queue_id)),
            Some(Datum::from(i32::from(found.priority))),
            Some(Datum::from(found.ready_at)),
        ];
        let run = |rows: Rows| if rows.len() > 0 { rows.uuid(0, 1) } else { None };
        let Some(run) = LOOK_UP.with(|plan| plan.run(&values, run)) else { return Outcome::Stale };
        match self.runs.get(run).map(|run| run.blocked) {
            Some(Blocked::No) => {}
            Some(Blocked::Yes) => return Outcome::Blocked,
            Some(Blocked::Perhaps) | None => return Outcome::Busy,
        }
        let given =
            Given { worker: Some(self.worker), lease_expires_at: Some(self.lease_expires_at), ..Given::default() };
        let metadata = Jsonb::object_of("worker", self.worker);
        let request = Request::new(vec![found.task], metadata, None).giving(given);
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
        match call::during(Call::Transition(request), || UPDATE.with(|plan| plan.run(&values[..2], read))) {
            Some((claim, task)) => self.taken(claim, task),
            None => Outcome::Busy,
        }
    }
}

enum Outcome {
    Taken(Taken),
    /// The task does not wait there any more.
    Stale,
    /// Another transaction changes the task.
    Busy,
    /// No task of its run may start.
    Blocked,
}

/// Every 16th call of a session first takes the task that waits for the longest time, whatever its priority.
fn is_turn_of_oldest() -> bool {
    thread_local! {
        static CALLS: Cell<u32> = const { Cell::new(0) };
    }
    let calls = CALLS.get().wrapping_add(1);
    CALLS.set(calls);
    calls.is_multiple_of(16)
}
