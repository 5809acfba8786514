//! The objects of the extension pg_workflow. A name proves nothing: anyone who may create a schema can call it `workflow`.

use super::catalog;
use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};
use std::cell::RefCell;
use std::ffi::CStr;

const EXTENSION: &CStr = c"pg_workflow";
const SCHEMA: &CStr = c"workflow";

/// Finds a table, view or sequence of the extension, and its owner; `None` if the relation with this name does not
/// exist or is not a member.
pub fn relation(name: &CStr) -> Option<(Oid, Oid)> {
    // SAFETY: catalog look-ups by NUL-terminated names; true: no error if there is no such schema.
    let relation =
        unsafe { pg_sys::get_relname_relid(name.as_ptr(), pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true)) };
    if relation == Oid::INVALID || !is_relation(relation) {
        return None;
    }
    Some((relation, catalog::owner(relation)?))
}

/// Whether a relation is a member. A backend looks each one up once.
pub fn is_relation(relation: Oid) -> bool {
    if VERIFIED.with_borrow(|verified| verified.contains(&relation)) {
        return true;
    }
    // Before the look-up: a change during it must be noticed.
    forget_on_change();
    let is_member = is_member(pg_sys::RelationRelationId, relation);
    if is_member {
        VERIFIED.with_borrow_mut(|verified| verified.push(relation));
    }
    is_member
}

/// Finds a function of the extension by its exact signature; `None` if it does not exist or is not a member.
pub fn function(name: &CStr, arguments: &[Oid]) -> Option<Oid> {
    // SAFETY: catalog look-ups by a NUL-terminated name, a vector of that many types, and a schema.
    let function = unsafe {
        let arguments = pg_sys::buildoidvector(arguments.as_ptr(), arguments.len() as i32);
        pg_sys::GetSysCacheOid(
            SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            pg_sys::Anum_pg_proc_oid as pg_sys::AttrNumber,
            Datum::from(name.as_ptr()),
            Datum::from(arguments),
            Datum::from(pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true)),
            Datum::null(),
        )
    };
    (function != Oid::INVALID && is_member(pg_sys::ProcedureRelationId, function)).then_some(function)
}

/// Whether an object of a catalog is a member.
fn is_member(catalog: Oid, object: Oid) -> bool {
    // SAFETY: catalog look-ups; true: no error if there is no such extension.
    unsafe {
        let extension = pg_sys::get_extension_oid(EXTENSION.as_ptr(), true);
        extension != Oid::INVALID && pg_sys::getExtensionOfObject(catalog, object) == extension
    }
}

thread_local! {
    /// Relations that are members. A relation stays one until it is dropped, which changes it in the cache.
    static VERIFIED: RefCell<Vec<Oid>> = const { RefCell::new(Vec::new()) };
}

fn forget_on_change() {
    thread_local! {
        static REGISTERED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    if !REGISTERED.replace(true) {
        // SAFETY: the function stays as long as the process.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(on_change), Datum::null()) };
    }
}

/// A relation has changed, or has been dropped; without an OID any may have.
extern "C-unwind" fn on_change(_: Datum, relation: Oid) {
    VERIFIED.with_borrow_mut(|verified| verified.retain(|known| relation != Oid::INVALID && *known != relation));
}
