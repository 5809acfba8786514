//! Look-ups in the system catalogs.

use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};
use std::ffi::{CStr, CString};

/// Returns the name of a database; `None` if it does not exist.
pub fn database_name(database: Oid) -> Option<String> {
    // SAFETY: catalog look-up; the result is null or NUL-terminated.
    unsafe {
        let name = pg_sys::get_database_name(database);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Returns the OID of a database; `None` if it does not exist.
pub fn database_oid(name: &str) -> Option<Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: catalog look-up by a NUL-terminated name; true: no error if it does not exist.
    let oid = unsafe { pg_sys::get_database_oid(name.as_ptr(), true) };
    (oid != Oid::INVALID).then_some(oid)
}

/// What decides who may drop, move, rename or copy a database.
pub struct DatabaseRights {
    pub owner: Oid,
    /// Whether every role that may create databases may copy it.
    pub is_template: bool,
}

/// Looks up the owner of a database; `None` if it does not exist.
pub fn database_rights(database: Oid) -> Option<DatabaseRights> {
    // SAFETY: the cache returns a row of pg_database.
    unsafe {
        row(SysCacheIdentifier::DATABASEOID, database, |row: &pg_sys::FormData_pg_database| DatabaseRights {
            owner: row.datdba,
            is_template: row.datistemplate,
        })
    }
}

/// Whether a role has CREATEDB.
pub fn creates_databases(role: Oid) -> bool {
    // SAFETY: the cache returns a row of pg_authid.
    unsafe { row(SysCacheIdentifier::AUTHOID, role, |row: &pg_sys::FormData_pg_authid| row.rolcreatedb) }
        .unwrap_or(false)
}

/// Returns the owner of a table, view or sequence.
pub fn owner(relation: Oid) -> Option<Oid> {
    // SAFETY: the cache returns a row of pg_class.
    unsafe { row(SysCacheIdentifier::RELOID, relation, |row: &pg_sys::FormData_pg_class| row.relowner) }
}

/// Reads the row with this OID; `None` if there is none.
///
/// # Safety
/// `T` must be the struct of the cache's rows.
unsafe fn row<T, R>(cache: SysCacheIdentifier::Type, oid: Oid, read: impl FnOnce(&T) -> R) -> Option<R> {
    // SAFETY: the caller's promise; the tuple is released after its last use.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(cache as i32, Datum::from(oid));
        if tuple.is_null() {
            return None;
        }
        let result = read(&*pg_sys::GETSTRUCT(tuple).cast::<T>());
        pg_sys::ReleaseSysCache(tuple);
        Some(result)
    }
}
