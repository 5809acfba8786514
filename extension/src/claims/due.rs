//! From when on a claim would find a task: for the sessions that wait.

use super::walk::{Candidate, Walk};
use crate::ffi::lane::Sight;
use crate::ffi::values::clock;
use crate::ffi::{session, waiters};
use crate::memory;
use crate::places::Start;
use crate::queues::{self, Queue};
use crate::ready::{self, ReadyColumns};
use pgrx::Array;

/// Returns in how many seconds a task of these queues can be claimed; `None`: none waits.
#[pgrx::pg_extern(sql = false)]
fn seconds_to_task(queues: Option<Array<'_, &'_ str>>) -> Option<f64> {
    let names = super::queue_names(queues);
    let named = memory::collect(names.iter().map(|name| queues::named(session::user(), name)));
    // A commit that creates a queue wakes sessions that wait for any.
    let all_exist = named.iter().all(|queues| !queues.is_empty());
    let queues = memory::collect(named.into_iter().flatten());
    let ids = memory::collect(queues.iter().map(|queue| queue.id));
    // First: a commit from here on wakes the session, and what is committed before is found.
    waiters::begin(all_exist.then_some(&ids[..]));
    let due = queues.iter().filter_map(due_in).min()?;
    Some((due - clock()).max(0) as f64 / 1e6)
}

/// Returns the time from which a task of a queue can be claimed.
fn due_in(queue: &Queue) -> Option<i64> {
    // No commit tells of a slot that is free: its claim can have run out.
    if queue.slots.is_some_and(|slots| queues::running(queue.id) >= i64::from(slots)) {
        return None;
    }
    let first = first_ready_at(queue.id)?;
    let due = queue.paused_until.map_or(first, |until| first.max(until));
    (due != i64::MAX).then_some(due)
}

/// Returns the earliest time of the lanes. Rows that another transaction takes now do not count: the waiting session would
/// claim nothing, and ask again without a pause.
fn first_ready_at(queue_id: i32) -> Option<i64> {
    let start = Start::read(queue_id);
    let heap = ready::open();
    let mut walk = Walk::begin(&heap, ReadyColumns::of(&heap), queue_id, &start, i64::MAX - 1, Sight::Settled);
    let mut first = None;
    while let Some(Candidate { found, .. }) = walk.next() {
        first = Some(first.map_or(found.ready_at, |time: i64| time.min(found.ready_at)));
        walk.leave_lane();
    }
    start.lower(queue_id, &walk.seen);
    walk.close();
    heap.close();
    first
}
