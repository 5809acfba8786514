//! Latches: one process waits, another wakes it.

use pgrx::pg_sys::{self, Latch};
use std::time::Duration;

/// Returns this process's latch.
pub fn mine() -> *mut Latch {
    // SAFETY: set before any code of ours runs.
    unsafe { pg_sys::MyLatch }
}

/// Wakes the process of the latch. Does nothing if it is null.
pub fn set(latch: *mut Latch) {
    if !latch.is_null() {
        // SAFETY: the latch is in shared memory, which lives as long as the server.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

/// Waits until another process sets this process's latch, or the time has passed. Exits if the postmaster dies.
///
/// Clears the latch: check your condition before you wait again.
pub fn wait(at_most: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // Rounded up: otherwise the last half millisecond would be a busy loop.
    let milliseconds = at_most.as_micros().div_ceil(1000).try_into().unwrap_or(i32::MAX.into());
    // SAFETY: the latch is this process's own.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Calls `callback` with this process's latch when the process exits, unless it crashes.
pub fn at_exit(callback: fn(*mut Latch)) {
    extern "C-unwind" fn run(_code: i32, callback: pg_sys::Datum) {
        // SAFETY: it is the function pointer from below.
        let callback = unsafe { std::mem::transmute::<usize, fn(*mut Latch)>(callback.value()) };
        callback(mine());
    }
    // SAFETY: the function is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(run), pg_sys::Datum::from(callback as usize)) };
}
