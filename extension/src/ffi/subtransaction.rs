//! Work that a transaction survives if it fails.

use super::error::raise_again;
use super::transaction::{Failure, failure};
use pgrx::pg_sys;
use pgrx::prelude::PgTryBuilder;
use std::panic::AssertUnwindSafe;

/// Runs `work` in a subtransaction. An error rolls it back, and is returned; that of a canceled statement is raised again.
/// Also for the end of a transaction, where deferred triggers use subtransactions, too.
pub fn attempt<R>(work: impl FnOnce() -> R) -> Result<R, Failure> {
    let result = attempt_until_canceled(work);
    if let Err(failure) = &result
        && failure.is_cancel()
    {
        raise_again(failure);
    }
    result
}

/// The same, but also the error of a canceled statement is returned.
pub fn attempt_until_canceled<R>(work: impl FnOnce() -> R) -> Result<R, Failure> {
    // SAFETY: a transaction is in progress. Both values are those of the level above, which stays.
    let (context, owner) = unsafe {
        let kept = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(kept.0);
        kept
    };
    let work = AssertUnwindSafe(|| Ok(work()));
    let result = PgTryBuilder::new(work).catch_others(|error| Err(failure(&error))).execute();
    // SAFETY: ends the level that was begun above, whatever `work` has begun within: PL/pgSQL's blocks do so, too.
    unsafe {
        match &result {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    result
}
