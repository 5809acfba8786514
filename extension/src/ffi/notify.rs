//! NOTIFY.

use pgrx::pg_sys;
use std::ffi::CString;

/// The longest payload that NOTIFY accepts, in bytes.
pub const MAX_PAYLOAD: usize = 7999;

/// Queues a notification; PostgreSQL sends it when the transaction commits.
pub fn notify(channel: &str, payload: &str) {
    let [channel, payload] = [channel, payload].map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: both texts are NUL-terminated, and PostgreSQL copies them.
    unsafe { pg_sys::Async_Notify(channel.as_ptr(), payload.as_ptr()) };
}
