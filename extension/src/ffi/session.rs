//! Who runs, as whom, and where.

use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::{CStr, CString};

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

/// The role that the session works as, where row security shows it only a part of this table. Functions that run with their
/// owner's rights see all of it.
pub fn restricted_user(table: Oid) -> Option<Oid> {
    // SAFETY: a value of this process, and catalog look-ups; true: no error where row_security is off.
    unsafe {
        let user = pg_sys::GetOuterUserId();
        let answer = pg_sys::check_enable_rls(table, user, true);
        (answer == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32).then_some(user)
    }
}

/// The cluster's identifier.
pub fn system_identifier() -> u64 {
    // SAFETY: reads shared memory that is set before any backend starts.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// The timeline of what is written now: a promotion and a recovery to a moment in the past begin another. Not for
/// standbys.
pub fn timeline() -> u32 {
    // SAFETY: reads shared memory; in 14 a value of this process, which is_standby() sets.
    #[cfg(not(feature = "pg14"))]
    unsafe {
        pg_sys::GetWALInsertionTimeLine()
    }
    #[cfg(feature = "pg14")]
    unsafe {
        pg_sys::ThisTimeLineID
    }
}

/// The first transaction number that has not been given out.
pub fn next_transaction_id() -> u64 {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
}

/// The database that this process is connected to.
pub fn database() -> Oid {
    // SAFETY: a value of this process.
    unsafe { pg_sys::MyDatabaseId }
}

/// The name of a database; None where there is no such one.
pub fn database_name(database: Oid) -> Option<String> {
    // SAFETY: catalog look-up; the result is null or NUL-terminated.
    unsafe {
        let name = pg_sys::get_database_name(database);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// The database of this name.
pub fn database_oid(name: &str) -> Option<Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: catalog look-up by a NUL-terminated name; true: no error where there is none.
    let oid = unsafe { pg_sys::get_database_oid(name.as_ptr(), true) };
    (oid != Oid::INVALID).then_some(oid)
}

/// A table and its owner; None where there is no such table or schema.
pub fn table(schema: &CStr, name: &CStr) -> Option<(Oid, Oid)> {
    // SAFETY: catalog look-ups by NUL-terminated names; the tuple is released after its last use.
    unsafe {
        let schema = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        let table = pg_sys::get_relname_relid(name.as_ptr(), schema);
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, Datum::from(table));
        if tuple.is_null() {
            return None;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Some((table, owner))
    }
}

/// Whether this server follows another, and so takes no writes.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// This process's number.
pub fn process_id() -> i32 {
    // SAFETY: a value of this process.
    unsafe { pg_sys::MyProcPid }
}
