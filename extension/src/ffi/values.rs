//! Text, arrays and time, to and from datums.

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum};

/// # Safety
/// `datum` must be a non-null text value that lives as long as the result is used.
pub unsafe fn text<'a>(datum: Datum) -> &'a str {
    // SAFETY: the caller's promise.
    unsafe { <&str>::from_datum(datum, false) }.unwrap_or_default()
}

/// A text value in the current memory context.
pub fn text_datum(text: &str) -> Datum {
    text.into_datum().unwrap_or(Datum::null())
}

/// How the elements of an array are laid out: what PostgreSQL's catalog says of their type.
struct Layout {
    oid: Oid,
    length: i32,
    by_value: bool,
    align: u8,
}

fn array(mut elements: Vec<Datum>, layout: Layout) -> Datum {
    let Layout { oid, length, by_value, align } = layout;
    let count = elements.len() as i32;
    // SAFETY: the elements are non-null values of the type that the layout describes.
    Datum::from(unsafe {
        pg_sys::construct_array(elements.as_mut_ptr(), count, oid, length, by_value, align as std::ffi::c_char)
    })
}

/// A uuid[] of datums that are uuids.
pub fn uuid_array(elements: Vec<Datum>) -> Datum {
    array(elements, Layout { oid: pg_sys::UUIDOID, length: 16, by_value: false, align: b'c' })
}

/// A text[] of datums that are texts.
pub fn text_array(elements: Vec<Datum>) -> Datum {
    array(elements, Layout { oid: pg_sys::TEXTOID, length: -1, by_value: false, align: b'i' })
}

/// The clock, in microseconds since 2000-01-01 UTC.
pub fn clock() -> i64 {
    // SAFETY: reads the system's clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
