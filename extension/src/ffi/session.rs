//! The session: its roles, its database and its process.

use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, CString};

/// Returns the name of the login role.
pub fn session_user() -> String {
    // SAFETY: a value of this process.
    role_name(unsafe { pg_sys::GetSessionUserId() })
}

/// Returns the name of a role that acts for the login role; `None` if it is the login role itself.
pub fn acted_as(role: Oid) -> Option<String> {
    // SAFETY: a value of this process.
    (role != unsafe { pg_sys::GetSessionUserId() }).then(|| role_name(role))
}

/// Roles of a session can be dropped meanwhile.
fn role_name(role: Oid) -> String {
    // SAFETY: catalog look-up; the result is NUL-terminated, or null if there is no such role (true: no error).
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() { "unknown".to_owned() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// Returns the name of a role.
pub fn name_of(role: Oid) -> String {
    role_name(role)
}

/// Raises PostgreSQL's own error if the transaction is read-only.
pub fn refuse_read_only(command: &CStr) {
    // SAFETY: a NUL-terminated name.
    unsafe { pg_sys::PreventCommandIfReadOnly(command.as_ptr()) };
}

/// Returns the current role.
pub fn user() -> Oid {
    // SAFETY: a value of this process.
    unsafe { pg_sys::GetUserId() }
}

/// Returns the role of SET ROLE or of the login, which SECURITY DEFINER functions do not change.
pub fn outer_user() -> Oid {
    // SAFETY: a value of this process.
    unsafe { pg_sys::GetOuterUserId() }
}

/// Whether the current role is a superuser.
pub fn is_superuser() -> bool {
    // SAFETY: catalog look-up.
    unsafe { pg_sys::superuser() }
}

/// Whether the session acts as a superuser, by its login or by SET ROLE, and runs the current code itself: not in a
/// SECURITY DEFINER function, nor in maintenance.
pub fn is_acting_superuser() -> bool {
    let (mut user, mut context) = (Oid::INVALID, 0);
    // SAFETY: values of this process, and a catalog look-up.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        context == 0 && pg_sys::superuser_arg(user)
    }
}

/// Returns the name that the client has given itself.
pub fn application_name<'a>() -> &'a CStr {
    // SAFETY: a setting of this process, which is null or NUL-terminated.
    unsafe { if pg_sys::application_name.is_null() { c"" } else { CStr::from_ptr(pg_sys::application_name) } }
}

/// Whether the current role has the privileges of `role`.
pub fn has_privileges_of(role: Oid) -> bool {
    // SAFETY: catalog look-up.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// Whether the current role has the privileges of the role with this name, which may not exist.
pub fn has_privileges_of_named(role: &str) -> bool {
    let Ok(name) = CString::new(role) else { return false };
    // SAFETY: catalog look-up by a NUL-terminated name; true: no error if it does not exist.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    role != Oid::INVALID && has_privileges_of(role)
}

/// Whether the current statement may write, needs no fixed snapshot, fires the triggers of ordinary sessions, fails on no
/// policy of row security, and no other library checks its permissions.
pub fn may_write_directly() -> bool {
    // SAFETY: values of this process.
    unsafe {
        let hook = pg_sys::ExecutorCheckPerms_hook;
        let policies = [pg_sys::row_security_policy_hook_permissive, pg_sys::row_security_policy_hook_restrictive];
        !pg_sys::XactReadOnly
            && pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32
            && pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_ORIGIN as i32
            && hook.is_none()
            && policies.iter().all(Option::is_none)
            && pg_sys::row_security
            && !pg_sys::IsInParallelMode()
            && pg_sys::ActiveSnapshotSet()
    }
}

/// Whether the current role may read a table and update this column.
pub fn may_update(table: Oid, column: usize) -> bool {
    // SAFETY: catalog look-up.
    let may_update_column = || unsafe {
        #[allow(clippy::useless_conversion)]
        let right = pg_sys::ACL_UPDATE.into();
        pg_sys::pg_attribute_aclcheck(table, column as pg_sys::AttrNumber, pg_sys::GetUserId(), right)
            == pg_sys::AclResult::ACLCHECK_OK
    };
    may_read(table) && (may_update_column() || has_right(table, user(), pg_sys::ACL_UPDATE))
}

/// Whether a role may insert into a table, and return what it has inserted.
pub fn may_insert(table: Oid, role: Oid) -> bool {
    [pg_sys::ACL_INSERT, pg_sys::ACL_SELECT].iter().all(|right| has_right(table, role, *right))
}

/// Whether a role may lock the rows of a table.
pub fn may_lock_rows(table: Oid, role: Oid) -> bool {
    [pg_sys::ACL_SELECT, pg_sys::ACL_UPDATE].iter().all(|right| has_right(table, role, *right))
}

/// Whether the current role may read a table or a view.
pub fn may_read(relation: Oid) -> bool {
    has_right(relation, user(), pg_sys::ACL_SELECT)
}

fn has_right(relation: Oid, role: Oid, right: u32) -> bool {
    // SAFETY: catalog look-up.
    unsafe {
        // Its type has 32 bits in PostgreSQL 15, and 64 later.
        #[allow(clippy::useless_conversion)]
        let right = right.into();
        pg_sys::pg_class_aclcheck(relation, role, right) == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether the current role may use the names of a schema, as any statement asks.
pub fn may_use_schema(schema: Oid) -> bool {
    // SAFETY: catalog look-up.
    unsafe {
        let role = pg_sys::GetUserId();
        #[allow(clippy::useless_conversion)]
        let right = pg_sys::ACL_USAGE.into();
        #[cfg(feature = "pg15")]
        let result = pg_sys::pg_namespace_aclcheck(schema, role, right);
        #[cfg(not(feature = "pg15"))]
        let result = pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, role, right);
        result == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether maintenance runs the code of a table's owner now.
pub fn is_restricted_operation() -> bool {
    // SAFETY: a value of this process.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Runs `work` as `owner`, as PostgreSQL runs foreign key checks. If `work` raises an error, the end of the
/// (sub)transaction restores the role.
pub fn as_owner<R>(owner: Oid, work: impl FnOnce() -> R) -> R {
    acting_as(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE, work)
}

/// Runs `work` as `owner` in a security-restricted operation, as PostgreSQL runs autovacuum: the code of the owner's
/// objects can change neither the role nor the session.
pub fn restricted_to<R>(owner: Oid, work: impl FnOnce() -> R) -> R {
    acting_as(owner, pg_sys::SECURITY_RESTRICTED_OPERATION, work)
}

fn acting_as<R>(role: Oid, restriction: u32, work: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (Oid::INVALID, 0);
    // SAFETY: saves the current role and context, and sets others; restored below.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | (restriction | pg_sys::SECURITY_NOFORCE_RLS) as i32);
    }
    let result = work();
    // SAFETY: restores the role that was saved above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// Whether row security applies to a role in this table.
pub fn is_restricted_in(table: Oid, role: Oid) -> bool {
    // SAFETY: catalog look-ups; true: no error if row_security is off.
    let result = unsafe { pg_sys::check_enable_rls(table, role, true) };
    result == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
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

/// Returns the number of this process among the server's backends, from 0.
pub fn backend_number() -> usize {
    // SAFETY: values of this process, which has a PGPROC.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    let number = unsafe { (*pg_sys::MyProc).pgprocno };
    // SAFETY: as above.
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    let number = unsafe { pg_sys::MyProcNumber };
    number as usize
}
