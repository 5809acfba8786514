//! The ends of transactions.

use pgrx::pg_sys::{self, XactEvent};
use pgrx::prelude::PgTryBuilder;
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What has happened to a marked transaction.
#[derive(Clone, Copy, PartialEq)]
pub enum Moment {
    /// It is about to commit, and will not wait for the disk.
    CommitsUnflushed,
    /// It has committed, and is visible to others.
    Committed,
    /// After the first of these: it has ended, one way or the other.
    UnflushedEnded,
}

/// What to call then. It must not fail: at most of these moments an error would abort the backend.
pub type Hear = fn(mark: usize, moment: Moment);

/// Of this process: whom to call, what the transaction under way is marked with, and whether it commits unflushed.
static HEAR: OnceLock<Hear> = OnceLock::new();
static MARK: AtomicUsize = AtomicUsize::new(NONE);
static UNFLUSHED: AtomicBool = AtomicBool::new(false);
const NONE: usize = usize::MAX;

/// Registers the callback, once: backends inherit it from the postmaster.
pub fn register(hear: Hear) {
    HEAR.get_or_init(|| hear);
    // SAFETY: the function is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) };
}

pub fn is_registered() -> bool {
    HEAR.get().is_some()
}

/// Marks the transaction under way.
pub fn mark(mark: usize) {
    MARK.store(mark, Ordering::Relaxed);
}

fn commits_unflushed() -> bool {
    // SAFETY: a setting of this process.
    unsafe { pg_sys::synchronous_commit == pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 }
}

extern "C-unwind" fn at_end(event: XactEvent::Type, _argument: *mut c_void) {
    let mark = MARK.load(Ordering::Relaxed);
    let Some(hear) = HEAR.get().filter(|_| mark != NONE) else { return };
    match event {
        XactEvent::XACT_EVENT_PRE_COMMIT if commits_unflushed() => {
            UNFLUSHED.store(true, Ordering::Relaxed);
            hear(mark, Moment::CommitsUnflushed);
        }
        XactEvent::XACT_EVENT_COMMIT | XactEvent::XACT_EVENT_ABORT | XactEvent::XACT_EVENT_PREPARE => {
            MARK.store(NONE, Ordering::Relaxed);
            if event == XactEvent::XACT_EVENT_COMMIT {
                hear(mark, Moment::Committed);
            }
            if UNFLUSHED.swap(false, Ordering::Relaxed) {
                hear(mark, Moment::UnflushedEnded);
            }
        }
        _ => {}
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
