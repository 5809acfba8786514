//! Values of a sequence.

use super::member;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;

/// A sequence of the extension.
pub struct Sequence(Oid);

impl Sequence {
    /// Finds a sequence of the extension.
    pub fn find(name: &CStr) -> Option<Sequence> {
        member::relation(name).map(|(sequence, _)| Sequence(sequence))
    }

    /// Draws the next value, with no check of permissions.
    pub fn next_value(&self) -> i64 {
        // SAFETY: the OID is a sequence's; false: no check of permissions.
        unsafe { pg_sys::nextval_internal(self.0, false) }
    }

    /// Returns the last value that any transaction has drawn; 0 if none has. The role must have SELECT.
    pub fn last_value(&self) -> i64 {
        // SAFETY: a built-in function of one OID, which returns a bigint or null.
        let last = unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::pg_sequence_last_value, &[Some(Datum::from(self.0))])
        };
        last.map_or(0, |last| last.value() as i64)
    }
}
