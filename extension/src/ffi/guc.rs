//! Settings of PostgreSQL during some work, as a function's SET clauses make them.

use pgrx::pg_sys;
use std::ffi::CStr;

/// Names and values that every role may set.
pub type Settings = &'static [(&'static CStr, &'static CStr)];

/// Runs `work` with other settings. If it raises an error, the end of the (sub)transaction resets them.
pub fn with_settings<R>(settings: Settings, work: impl FnOnce() -> R) -> R {
    // SAFETY: names and values are NUL-terminated; the settings end with their level.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            let (context, source) = (pg_sys::GucContext::PGC_USERSET, pg_sys::GucSource::PGC_S_SESSION);
            let (name, value, action) = (name.as_ptr(), value.as_ptr(), pg_sys::GucAction::GUC_ACTION_SAVE);
            pg_sys::set_config_option(name, value, context, source, action, true, 0, false);
        }
        let result = work();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}
