//! Datums of texts and arrays, the clocks, and intervals.

use pgrx::datum::Interval;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum};

/// Returns the text of a datum.
///
/// # Safety
/// `datum` must be a non-null text value that lives as long as the result is used.
pub unsafe fn text<'a>(datum: Datum) -> &'a str {
    // SAFETY: the caller's promise.
    unsafe { <&str>::from_datum(datum, false) }.unwrap_or_default()
}

/// Returns a text datum in the current memory context.
pub fn text_datum(text: &str) -> Datum {
    text.into_datum().unwrap_or(Datum::null())
}

/// The type of an array's elements, as in pg_type.
struct Element {
    oid: Oid,
    length: i32,
    by_value: bool,
    align: u8,
}

fn array(mut elements: Vec<Datum>, element: Element) -> Datum {
    let Element { oid, length, by_value, align } = element;
    let count = elements.len() as i32;
    // SAFETY: the elements are non-null values of this type.
    Datum::from(unsafe {
        pg_sys::construct_array(elements.as_mut_ptr(), count, oid, length, by_value, align as std::ffi::c_char)
    })
}

/// Returns a uuid[] of uuid datums.
pub fn uuid_array(elements: Vec<Datum>) -> Datum {
    array(elements, Element { oid: pg_sys::UUIDOID, length: 16, by_value: false, align: b'c' })
}

/// Returns the elements of a uuid[] of one dimension, or of none.
///
/// # Safety
/// `array` must be a non-null value of type uuid[], without nulls, that lives as long as the result is used.
pub unsafe fn uuids<'a>(array: Datum) -> &'a [[u8; 16]] {
    // SAFETY: the caller's promise. The elements of an array without nulls follow its header, 16 bytes each.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        if (*array).ndim != 1 || (*array).dataoffset != 0 {
            return &[];
        }
        let dimensions = array.add(1).cast::<i32>();
        let count = usize::try_from(*dimensions).unwrap_or(0);
        let header = size_of::<pg_sys::ArrayType>() + 2 * size_of::<i32>();
        let first =
            array.cast::<u8>().add(header.next_multiple_of(pg_sys::MAXIMUM_ALIGNOF as usize)).cast::<[u8; 16]>();
        std::slice::from_raw_parts(first, count)
    }
}

/// Returns a text[] of text datums.
pub fn text_array(elements: Vec<Datum>) -> Datum {
    array(elements, Element { oid: pg_sys::TEXTOID, length: -1, by_value: false, align: b'i' })
}

/// Returns the current time in microseconds since 2000-01-01 UTC.
pub fn clock() -> i64 {
    // SAFETY: reads the system's clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Returns the host's clock that cannot be set, in microseconds.
pub fn monotonic() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the time to our variable.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// Returns the microseconds of an interval, with months of 30 days.
pub fn microseconds(value: &Interval) -> i128 {
    let days = i128::from(value.months()) * 30 + i128::from(value.days());
    days * 86_400_000_000 + i128::from(value.micros())
}
