//! Who runs, as whom, and where.

use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// The name of the role that is logged in.
pub fn session_user() -> String {
    // SAFETY: the session user exists while its session does; the result is NUL-terminated, or null where it was
    // dropped meanwhile (second argument: no error).
    unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::GetSessionUserId(), true);
        if name.is_null() { "unknown".to_owned() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Whether the current user has all that `role` may do.
pub fn has_privileges_of(role: Oid) -> bool {
    // SAFETY: catalog look-up.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// Runs `work` with the rights of `owner`, as PostgreSQL runs its own foreign key checks. Should `work` raise an
/// error, the end of the (sub)transaction restores the user.
pub fn as_owner<R>(owner: Oid, work: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (Oid::INVALID, 0);
    // SAFETY: saves the present user and sets another; restored below.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(
            owner,
            context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS) as i32,
        );
    }
    let result = work();
    // SAFETY: puts back what was saved above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// The cluster's identifier.
pub fn system_identifier() -> u64 {
    // SAFETY: reads shared memory that is set before any backend starts.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// The first transaction number that has not been given out.
pub fn next_transaction_id() -> u64 {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
}
