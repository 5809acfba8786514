//! From when on a claim would find a task: for the sessions that wait.

use crate::ffi::lane::{Begin, Sight};
use crate::ffi::session;
use crate::ffi::values::clock;
use crate::queues::{self, Queue};
use crate::ready::{self, ReadyColumns};
use pgrx::Array;

/// Returns in how many seconds a task of these queues can be claimed; `None`: none waits.
#[pgrx::pg_extern(sql = false)]
fn seconds_to_task(queues: Option<Array<'_, &'_ str>>) -> Option<f64> {
    let names = super::queue_names(queues);
    let due =
        names.iter().flat_map(|name| queues::named(session::user(), name)).filter_map(|queue| due_in(&queue)).min()?;
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
    let heap = ready::open();
    let columns = ReadyColumns::of(&heap);
    let mut begin = Begin { columns: [columns.queue_id, columns.priority, columns.ready_at], queue_id, priority: 0 };
    let mut lanes = ready::lanes(&heap, &begin, Sight::Settled);
    let mut first = None;
    while let Some((row, _)) = lanes.next() {
        let found = columns.read(&row);
        first = Some(first.map_or(found.ready_at, |time: i64| time.min(found.ready_at)));
        if found.priority >= ready::LOWEST_PRIORITY {
            break;
        }
        begin.priority = found.priority + 1;
        lanes.restart(&begin);
    }
    lanes.close();
    heap.close();
    first
}
