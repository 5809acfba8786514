//! Raising errors and writing to the log.

use super::transaction::Failure;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use serde_json::Value;
use std::ffi::{CString, c_char};
use std::ptr::null_mut;

/// Raises an ERROR directly rather than as a Rust panic: pgrx appends a backtrace to the DETAIL of a panic, and our
/// DETAIL must stay JSON.
pub fn raise(code: PgSqlErrorCode, message: &str, detail: &Value, hint: &str) -> ! {
    let [message, detail, hint] = [message, &detail.to_string(), hint].map(to_palloc);
    throw(PgLogLevel::ERROR, code as i32, message, detail, hint);
    unreachable!("ThrowErrorData returned from an ERROR")
}

/// Raises an error that was caught: PostgreSQL has forgotten it by then.
pub fn raise_again(failure: &Failure) -> ! {
    throw(PgLogLevel::ERROR, failure.code, to_palloc(&failure.message), null_mut(), null_mut());
    unreachable!("ThrowErrorData returned from an ERROR")
}

/// Copies a text to PostgreSQL's memory, which is freed after the error: no Rust destructor runs then.
fn to_palloc(text: &str) -> *mut c_char {
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
    throw(PgLogLevel::WARNING, code, to_palloc(message), null_mut(), to_palloc(hint));
}

/// Reports an error with any SQLSTATE: pgrx takes those only that it has a name for. Below ERROR it returns.
/// The texts are in PostgreSQL's memory, or null.
fn throw(level: PgLogLevel, code: i32, message: *mut c_char, detail: *mut c_char, hint: *mut c_char) {
    let mut data = pg_sys::ErrorData {
        elevel: level as i32,
        sqlerrcode: code,
        message,
        detail,
        hint,
        filename: c"pg_workflow".as_ptr(),
        funcname: c"pg_workflow".as_ptr(),
        ..Default::default()
    };
    // SAFETY: PostgreSQL copies the strings, which are NUL-terminated and live in the current memory context.
    unsafe { pg_sys::ThrowErrorData(&mut data) };
}
