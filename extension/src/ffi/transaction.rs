//! The ends of transactions.

use pgrx::pg_sys::{self, XactEvent};
use pgrx::prelude::PgTryBuilder;
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What to call when a marked transaction has committed. It must not fail: the transaction is committed already, and
/// an error there would abort the backend.
pub type OnCommit = fn(mark: usize);

/// Of this process: whether the callback is there, and what the transaction under way is marked with.
static REGISTERED: AtomicBool = AtomicBool::new(false);
static ON_COMMIT: AtomicUsize = AtomicUsize::new(0);
static MARK: AtomicUsize = AtomicUsize::new(NONE);
const NONE: usize = usize::MAX;

/// Registers the callback, once: backends inherit it from the postmaster.
pub fn register(on_commit: OnCommit) {
    ON_COMMIT.store(on_commit as usize, Ordering::Relaxed);
    // SAFETY: the function is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) };
    REGISTERED.store(true, Ordering::Relaxed);
}

pub fn is_registered() -> bool {
    REGISTERED.load(Ordering::Relaxed)
}

/// Marks the transaction under way. Returns false where it was marked already.
pub fn mark(mark: usize) -> bool {
    MARK.swap(mark, Ordering::Relaxed) == NONE
}

/// PostgreSQL calls this after the transaction has become visible to others.
extern "C-unwind" fn at_end(event: XactEvent::Type, _argument: *mut c_void) {
    let committed = match event {
        XactEvent::XACT_EVENT_COMMIT => true,
        XactEvent::XACT_EVENT_ABORT | XactEvent::XACT_EVENT_PREPARE => false,
        _ => return,
    };
    let mark = MARK.swap(NONE, Ordering::Relaxed);
    if mark != NONE && committed {
        // SAFETY: `register` has put a function of this type there.
        let on_commit = unsafe { std::mem::transmute::<usize, OnCommit>(ON_COMMIT.load(Ordering::Relaxed)) };
        on_commit(mark);
    }
}

/// Runs `work` in a transaction of its own, in a process that has none. An error rolls it back and is returned.
pub fn run<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    let whole = AssertUnwindSafe(|| {
        // SAFETY: no transaction is under way; an error in between is dealt with below.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let result = work();
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
            Ok(result)
        }
    });
    let result = PgTryBuilder::new(whole).catch_others(|error| Err(message(&error))).execute();
    if result.is_err() {
        // SAFETY: ends the transaction that failed.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    result
}

fn message(error: &pg_sys::panic::CaughtError) -> String {
    use pg_sys::panic::CaughtError::{ErrorReport, PostgresError, RustPanic};
    match error {
        PostgresError(report) | ErrorReport(report) => report.message().to_owned(),
        RustPanic { ereport, .. } => ereport.message().to_owned(),
    }
}
