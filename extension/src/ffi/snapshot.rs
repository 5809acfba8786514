//! Snapshots as text.

use pgrx::pg_sys;
use std::ffi::CStr;

/// Takes a snapshot and formats it like the type pg_snapshot: `xmin:xmax:xip,…`. It lists the transactions in progress
/// except the current one.
pub fn latest() -> String {
    // SAFETY: built-in functions without side effects, with the arguments that they take; the text is NUL-terminated.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let snapshot = pgrx::direct_function_call_as_datum(pg_sys::pg_current_snapshot, &[]);
        pg_sys::PopActiveSnapshot();
        let text = pgrx::direct_function_call_as_datum(pg_sys::pg_snapshot_out, &[snapshot]);
        let text = text.map(|text| CStr::from_ptr(text.cast_mut_ptr()).to_string_lossy().into_owned());
        text.unwrap_or_default()
    }
}
