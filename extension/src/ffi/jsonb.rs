//! jsonb as an opaque value: passed on unparsed, read only as far as needed.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::nullable::Nullable;
use pgrx::pg_sys::{self, Datum};
use pgrx::{FromDatum, IntoDatum, PgMemoryContexts, impl_sql_translatable};
use std::ffi::CStr;

/// A jsonb value in PostgreSQL's own, uncompressed form.
#[derive(Clone, Copy)]
pub struct Jsonb(*mut pg_sys::Jsonb);

impl Jsonb {
    /// Returns `{}`, which a backend makes once.
    pub fn empty_object() -> Jsonb {
        thread_local! {
            static EMPTY: Jsonb = Jsonb::new_empty_object();
        }
        EMPTY.with(|empty| *empty)
    }

    fn new_empty_object() -> Jsonb {
        // SAFETY: the context lives as long as the process. jsonb_in reads the NUL-terminated text and returns a new jsonb.
        unsafe {
            PgMemoryContexts::TopMemoryContext.switch_to(|_| {
                let datum = pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(Datum::from(c"{}".as_ptr()))]);
                Jsonb(datum.unwrap_or(Datum::null()).cast_mut_ptr())
            })
        }
    }

    pub fn datum(self) -> Datum {
        Datum::from(self.0)
    }

    /// Whether it is a JSON object.
    pub fn is_object(self) -> bool {
        // SAFETY: a Jsonb always points to a detoasted value, whose first word is the root's header.
        unsafe { (*self.0).root.header & pg_sys::JB_FOBJECT != 0 }
    }

    /// Returns its size in bytes, uncompressed. Its text may be far longer.
    pub fn size(self) -> usize {
        // SAFETY: a Jsonb always points to a detoasted value.
        unsafe { pgrx::varsize_any(self.0.cast()) }
    }

    /// Returns the value of a key as a text datum: a string without quotes, other values as JSON. `None` if it is absent
    /// or null.
    pub fn get_text(self, key: &str) -> Option<Datum> {
        // SAFETY: jsonb_object_field_text takes a jsonb and a text, and returns a text or null.
        unsafe {
            let args = [Some(self.datum()), key.into_datum()];
            pgrx::direct_function_call_as_datum(pg_sys::jsonb_object_field_text, &args)
        }
    }

    /// Returns the object or the array itself.
    pub fn root(self) -> *mut pg_sys::JsonbContainer {
        // SAFETY: a Jsonb always points to a detoasted value.
        unsafe { &raw mut (*self.0).root }
    }

    /// Formats it as JSON.
    pub fn to_json_text(self) -> String {
        // SAFETY: JsonbToCString reads a detoasted value and returns a new NUL-terminated text.
        unsafe {
            let text = pg_sys::JsonbToCString(std::ptr::null_mut(), &raw mut (*self.0).root, self.size() as i32);
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }

    /// Wraps a datum, detoasted.
    ///
    /// # Safety
    /// `datum` must be a non-null value of type jsonb.
    pub unsafe fn from_raw(datum: Datum) -> Jsonb {
        // SAFETY: the caller's promise; detoasting copies the value if needed.
        Jsonb(unsafe { pg_sys::pg_detoast_datum(datum.cast_mut_ptr()) }.cast())
    }
}

impl FromDatum for Jsonb {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, _: pg_sys::Oid) -> Option<Jsonb> {
        // SAFETY: the caller of this trait's function promises that the datum is a jsonb.
        (!is_null).then(|| unsafe { Jsonb::from_raw(datum) })
    }
}

impl_sql_translatable!(Jsonb, "jsonb");

// SAFETY: an argument of this type is a jsonb, which is what from_datum expects.
unsafe impl<'fcx> ArgAbi<'fcx> for Jsonb {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Jsonb {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(Jsonb::empty_object)
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Jsonb> {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum() }.into()
    }
}
