//! Raising errors and writing to the log.

use super::transaction::Failure;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use serde_json::Value;
use std::ffi::CString;

/// Raises an ERROR directly rather than as a Rust panic: pgrx appends a backtrace to the DETAIL of a panic, and our
/// DETAIL must stay JSON.
pub fn raise(code: PgSqlErrorCode, message: &str, detail: &Value, hint: &str) -> ! {
    let [message, detail, hint] = [message, &detail.to_string(), hint].map(to_palloc);
    let mut data = pg_sys::ErrorData {
        elevel: PgLogLevel::ERROR as i32,
        sqlerrcode: code as i32,
        message,
        detail,
        hint,
        filename: c"pg_workflow".as_ptr(),
        funcname: c"pg_workflow".as_ptr(),
        ..Default::default()
    };
    // SAFETY: PostgreSQL copies the strings, which are NUL-terminated and live in the current memory context.
    unsafe { pg_sys::ThrowErrorData(&mut data) };
    unreachable!("ThrowErrorData returned from an ERROR")
}

/// Raises an error that was caught: PostgreSQL has forgotten it by then.
pub fn raise_again(failure: &Failure) -> ! {
    let mut data = pg_sys::ErrorData {
        elevel: PgLogLevel::ERROR as i32,
        sqlerrcode: failure.code,
        message: to_palloc(&failure.message),
        filename: c"pg_workflow".as_ptr(),
        funcname: c"pg_workflow".as_ptr(),
        ..Default::default()
    };
    // SAFETY: as above.
    unsafe { pg_sys::ThrowErrorData(&mut data) };
    unreachable!("ThrowErrorData returned from an ERROR")
}

/// Copies a text to PostgreSQL's memory, which is freed after the error: no Rust destructor runs then.
fn to_palloc(text: &str) -> *mut std::ffi::c_char {
    let text = CString::new(text.replace('\0', "")).unwrap_or_default();
    // SAFETY: `text` is NUL-terminated.
    unsafe { pg_sys::pstrdup(text.as_ptr()) }
}

/// Writes a line to the server's log.
pub fn log(message: &str, hint: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message.to_owned(), "pg_workflow")
        .set_hint(hint.to_owned())
        .report(PgLogLevel::LOG);
}

/// Tells the client, and the log, of an error that the caller survives.
pub fn warn(code: i32, message: &str, hint: &str) {
    let mut data = pg_sys::ErrorData {
        elevel: PgLogLevel::WARNING as i32,
        sqlerrcode: code,
        message: to_palloc(message),
        hint: to_palloc(hint),
        filename: c"pg_workflow".as_ptr(),
        funcname: c"pg_workflow".as_ptr(),
        ..Default::default()
    };
    // SAFETY: as above; below ERROR it returns.
    unsafe { pg_sys::ThrowErrorData(&mut data) };
}
