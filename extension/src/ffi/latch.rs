//! Latches: waiting in one process, being woken by another.

use pgrx::pg_sys::{self, Latch};
use std::time::Duration;

/// This process's latch.
pub fn mine() -> *mut Latch {
    // SAFETY: set before any code of ours runs.
    unsafe { pg_sys::MyLatch }
}

/// Wakes the process that the latch belongs to. Null wakes nobody.
pub fn set(latch: *mut Latch) {
    if !latch.is_null() {
        // SAFETY: the latch is in shared memory, which lives as long as the server.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

/// Waits until somebody sets this process's latch, or the time is over; ends the process when the postmaster is gone.
/// The latch is cleared: look at what you wait for before you wait again.
pub fn wait(at_most: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // Rounded up, or a last half millisecond would be spent in a busy loop.
    let milliseconds = at_most.as_micros().div_ceil(1000).try_into().unwrap_or(i32::MAX.into());
    // SAFETY: the latch is this process's own.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Whether a NOTIFY has reached this session and waits for the end of its transaction.
pub fn is_notified() -> bool {
    // SAFETY: a flag that a signal handler sets.
    unsafe { (&raw const pg_sys::notifyInterruptPending).read_volatile() != 0 }
}

/// Runs `forget` with this process's latch when the process ends, however it ends short of a crash.
pub fn at_exit(forget: fn(*mut Latch)) {
    extern "C-unwind" fn run(_code: i32, forget: pg_sys::Datum) {
        // SAFETY: it is the function pointer given below.
        let forget = unsafe { std::mem::transmute::<usize, fn(*mut Latch)>(forget.value()) };
        forget(mine());
    }
    // SAFETY: the function is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(run), pg_sys::Datum::from(forget as usize)) };
}
