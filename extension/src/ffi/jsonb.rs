//! jsonb as an opaque value: passed on unparsed, read only as far as needed.

use super::jsonb_container::Container;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::nullable::Nullable;
use pgrx::pg_sys::{self, Datum};
use pgrx::{FromDatum, IntoDatum, PgMemoryContexts, impl_sql_translatable};
use std::ffi::{CStr, CString};
use std::rc::Rc;

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

    /// Returns an object of one text, in the current memory context.
    pub fn object_of(key: &str, value: &str) -> Jsonb {
        Jsonb::of(&serde_json::json!({ key: value }))
    }

    /// Returns a JSON value, in the current memory context.
    pub fn of(value: &serde_json::Value) -> Jsonb {
        Jsonb::parse(value.to_string())
    }

    /// Parses JSON, in the current memory context.
    pub fn parse(json: impl Into<Vec<u8>>) -> Jsonb {
        let text = CString::new(json).unwrap_or_default();
        // SAFETY: jsonb_in reads the NUL-terminated text and returns a new jsonb.
        let datum =
            unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(Datum::from(text.as_ptr()))]) };
        Jsonb(datum.unwrap_or(Datum::null()).cast_mut_ptr())
    }

    /// Returns the object with a key set to a text, in the current memory context.
    pub fn with(self, key: &str, value: &str) -> Jsonb {
        let other = Jsonb::object_of(key, value);
        // SAFETY: jsonb_concat takes two jsonb and returns a new one.
        let datum = unsafe {
            pgrx::direct_function_call_as_datum(pg_sys::jsonb_concat, &[Some(self.datum()), Some(other.datum())])
        };
        Jsonb(datum.unwrap_or(Datum::null()).cast_mut_ptr())
    }

    /// Copies it to Rust's memory, by a function that copies bytes.
    pub fn copy(self, copy: impl FnOnce(&[u8]) -> Vec<u8>) -> JsonbCopy {
        JsonbCopy(Rc::new(copy(self.bytes())))
    }

    /// Returns its bytes, with their header, which must not be freed meanwhile.
    fn bytes(&self) -> &[u8] {
        // SAFETY: a Jsonb always points to a detoasted value, which has this size.
        unsafe { std::slice::from_raw_parts(self.0.cast::<u8>(), self.size()) }
    }

    /// Returns the object or the array itself, to be read in place.
    pub fn container(&self) -> Container<'_> {
        Container::of(self.bytes().get(size_of::<u32>()..).unwrap_or_default())
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

/// A jsonb in Rust's memory. Its clones share it.
#[derive(Clone)]
pub struct JsonbCopy(Rc<Vec<u8>>);

impl IntoDatum for JsonbCopy {
    fn into_datum(self) -> Option<Datum> {
        // SAFETY: the new memory has room for the bytes.
        unsafe {
            let copy = pg_sys::palloc(self.0.len());
            std::ptr::copy_nonoverlapping(self.0.as_ptr(), copy.cast(), self.0.len());
            Some(Datum::from(copy))
        }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

impl_sql_translatable!(JsonbCopy, "jsonb");

// SAFETY: into_datum returns a jsonb.
unsafe impl BoxRet for JsonbCopy {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.into_datum().unwrap_or(Datum::null())) }
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
