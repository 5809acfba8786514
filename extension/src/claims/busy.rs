//! Tasks that other transactions have locked: what a session remembers of them for its next claim.

use crate::ffi::places::LANES;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

/// How many of them a call tries to take. Each costs a look at the task.
pub const MOST: usize = 1000;

/// For how long a claim counts to have taken that has met only tasks whose claim the database refuses: the session then waits
/// for a second before it tries again.
pub const OF_REFUSED: Duration = Duration::from_millis(100);

/// How many of them there are at the beginning of each lane of a queue.
pub type Passed = [usize; LANES];

thread_local! {
    /// Of queues in which a call has met so many that it ended. The next one steps over them, to those behind.
    static PASSED: RefCell<HashMap<i32, Passed>> = RefCell::default();
    /// How long the last claim took, if it has met only such tasks.
    static IN_VAIN: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Returns how many rows a call steps over.
pub fn passed(queue: i32) -> Passed {
    PASSED.with_borrow(|all| all.get(&queue).copied().unwrap_or_default())
}

/// Notes that a call has met the most that it may in a queue.
pub fn note_passed(queue: i32, passed: Passed) {
    PASSED.with_borrow_mut(|all| all.insert(queue, passed));
}

/// Forgets that: a call has begun with the first rows, and met fewer.
pub fn forget_passed(queue: i32) {
    PASSED.with_borrow_mut(|all| all.remove(&queue));
}

/// Notes the end of a call: how long it took if it was in vain, and whether there is more behind what it has met.
pub fn note_call(in_vain: Option<Duration>, has_more: bool) {
    IN_VAIN.set(in_vain);
    if in_vain.is_some() && !has_more {
        // The first ones may be free again.
        PASSED.with_borrow_mut(HashMap::clear);
    }
}

/// Returns how long the session's last claim took, if it has met only tasks that other transactions change.
pub fn in_vain() -> Option<Duration> {
    IN_VAIN.get()
}
