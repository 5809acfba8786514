//! The session: its roles, its database and its process.

use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// Returns the name of the login role.
pub fn session_user() -> String {
    // SAFETY: the session user exists while its session does; the result is NUL-terminated, or null if it has
    // been dropped meanwhile (true: no error).
    unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::GetSessionUserId(), true);
        if name.is_null() { "unknown".to_owned() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Returns the current role.
pub fn user() -> Oid {
    // SAFETY: a value of this process.
    unsafe { pg_sys::GetUserId() }
}

/// Whether the current role is a superuser.
pub fn is_superuser() -> bool {
    // SAFETY: catalog look-up.
    unsafe { pg_sys::superuser() }
}

/// Whether the current role has the privileges of `role`.
pub fn has_privileges_of(role: Oid) -> bool {
    // SAFETY: catalog look-up.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// Whether maintenance runs the code of a table's owner now.
pub fn is_restricted_operation() -> bool {
    // SAFETY: a value of this process.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Whether the current role may read a table or a view.
pub fn may_read(relation: Oid) -> bool {
    // SAFETY: catalog look-up.
    unsafe {
        let right = pg_sys::ACL_SELECT.into();
        pg_sys::pg_class_aclcheck(relation, pg_sys::GetUserId(), right) == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Runs `work` as `owner`, as PostgreSQL runs foreign key checks. If `work` raises an error, the end of the
/// (sub)transaction restores the role.
pub fn as_owner<R>(owner: Oid, work: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (Oid::INVALID, 0);
    // SAFETY: saves the current role and sets another; restored below.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(
            owner,
            context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS) as i32,
        );
    }
    let result = work();
    // SAFETY: restores the role that was saved above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// Runs `work` as `owner` in a security-restricted operation, as PostgreSQL runs autovacuum: the code of the owner's
/// objects can change neither the role nor the session. If `work` raises an error, the end of the (sub)transaction
/// restores the role.
pub fn restricted_to<R>(owner: Oid, work: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (Oid::INVALID, 0);
    // SAFETY: saves the current role and context, and sets others; restored below.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restricted = pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS;
        pg_sys::SetUserIdAndSecContext(owner, context | restricted as i32);
    }
    let result = work();
    // SAFETY: restores the role that was saved above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// Returns the session's role if row security applies to it in this table. SECURITY DEFINER functions see all rows.
pub fn restricted_user(table: Oid) -> Option<Oid> {
    // SAFETY: a value of this process, and catalog look-ups; true: no error if row_security is off.
    unsafe {
        let user = pg_sys::GetOuterUserId();
        let result = pg_sys::check_enable_rls(table, user, true);
        (result == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32).then_some(user)
    }
}

/// Returns the database that this process is connected to.
pub fn database() -> Oid {
    // SAFETY: a value of this process.
    unsafe { pg_sys::MyDatabaseId }
}

/// Returns the ID of this process.
pub fn process_id() -> i32 {
    // SAFETY: a value of this process.
    unsafe { pg_sys::MyProcPid }
}
