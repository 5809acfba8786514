//! The levels of a transaction: the transaction itself, and the subtransactions in it, as of savepoints.

use pgrx::pg_sys::{self, SubXactEvent, XactEvent};
use std::ffi::c_void;
use std::sync::OnceLock;

/// The end of a level.
#[derive(Clone, Copy, PartialEq)]
pub enum LevelEnd {
    /// The transaction has committed.
    Committed,
    /// The transaction was rolled back or prepared.
    NotCommitted,
    /// A subtransaction has become a part of the level above it.
    Merged,
    /// A subtransaction was rolled back.
    RolledBack,
}

/// The callback, with the level that ends. It must not fail: after the commit an error would abort the server.
pub type OnLevelEnd = fn(level: i32, end: LevelEnd);

static ON_END: OnceLock<OnLevelEnd> = OnceLock::new();

/// Returns the current level: 1 is the transaction.
pub fn current() -> i32 {
    // SAFETY: a value of this process.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// Registers the callback of this process. Only the first call counts.
pub fn register(on_end: OnLevelEnd) {
    ON_END.get_or_init(|| {
        // SAFETY: the functions are never unloaded.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_end_of_sub), std::ptr::null_mut());
        }
        on_end
    });
}

extern "C-unwind" fn at_end(event: XactEvent::Type, _argument: *mut c_void) {
    let end = match event {
        XactEvent::XACT_EVENT_COMMIT => LevelEnd::Committed,
        XactEvent::XACT_EVENT_ABORT | XactEvent::XACT_EVENT_PREPARE => LevelEnd::NotCommitted,
        _ => return,
    };
    ON_END.get().into_iter().for_each(|on_end| on_end(1, end));
}

extern "C-unwind" fn at_end_of_sub(
    event: SubXactEvent::Type,
    _sub: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    let end = match event {
        SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => LevelEnd::Merged,
        SubXactEvent::SUBXACT_EVENT_ABORT_SUB => LevelEnd::RolledBack,
        _ => return,
    };
    ON_END.get().into_iter().for_each(|on_end| on_end(current(), end));
}
