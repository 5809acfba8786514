//! Look-ups in the system catalogs.

use pgrx::pg_sys::{self, Datum, Oid};
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

/// Returns a table and its owner; `None` if the table or the schema does not exist.
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
