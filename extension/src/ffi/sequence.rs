//! Drawing values of a sequence.

use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// A sequence of the extension.
pub struct Sequence(Oid);

impl Sequence {
    /// Finds a sequence by name. Raises an error if it does not exist.
    pub fn find(schema: &CStr, name: &CStr) -> Sequence {
        // SAFETY: catalog look-ups by NUL-terminated names; false: an error if there is no such schema.
        let oid =
            unsafe { pg_sys::get_relname_relid(name.as_ptr(), pg_sys::get_namespace_oid(schema.as_ptr(), false)) };
        assert!(oid != Oid::INVALID, "sequence {name:?} does not exist in schema {schema:?}");
        Sequence(oid)
    }

    /// Draws the next value, with no check of permissions.
    pub fn next_value(&self) -> i64 {
        // SAFETY: the OID is a sequence's; false: no check of permissions.
        unsafe { pg_sys::nextval_internal(self.0, false) }
    }
}
