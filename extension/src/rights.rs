//! Who may call the extension's functions, beyond the privileges that PostgreSQL itself checks.

use crate::errors;
use crate::ffi::guc::Settings;
use crate::ffi::trigger::{Misuse, Trigger};
use crate::ffi::{member, session};
use std::ffi::CStr;

/// Exports a function `fn(Trigger) -> Datum`, with the triggers that it is made for. Its result is a tuple, or null if
/// PostgreSQL ignores the result.
macro_rules! export_trigger {
    ($symbol:ident, $info:ident, $function:ident, $uses:expr) => {
        $crate::ffi::trigger::export_trigger_call!($symbol, $info, $function, $uses, $crate::rights::checked_trigger);
    };
}
pub(crate) use export_trigger;

/// Exports a function `fn(Vec<String>)` as an event trigger. It gets the extensions that are dropped without CASCADE.
macro_rules! export_drop_trigger {
    ($symbol:ident, $info:ident, $function:ident) => {
        $crate::ffi::drop::export_drop_trigger_call!($symbol, $info, $function, $crate::rights::checked_drop);
    };
}
pub(crate) use export_drop_trigger;

/// Returns the call of a trigger that the function is made for.
pub fn checked_trigger<'a>(function: &str, call: Result<Trigger<'a>, Misuse>) -> Trigger<'a> {
    let trigger = checked(function, call);
    refuse_restricted_operation();
    trigger
}

/// Returns the extensions that an event trigger's statement drops.
pub fn checked_drop(function: &str, call: Result<Vec<String>, Misuse>) -> Vec<String> {
    checked(function, call)
}

fn checked<T>(function: &str, call: Result<T, Misuse>) -> T {
    call.unwrap_or_else(|misuse| match misuse {
        Misuse::NoTrigger => errors::not_a_trigger(function),
        Misuse::Trigger { name, table } => errors::foreign_trigger(function, &name, &table),
        Misuse::EventTrigger => errors::foreign_event_trigger(function),
    })
}

/// Raises an error if the statement is not the table owner's. No role is granted such statements, but members of
/// pg_write_all_data need no grant.
pub fn refuse_all_but_owner(trigger: Trigger) {
    if !session::has_privileges_of(trigger.table_owner()) {
        errors::for_owner_only(&trigger.table_name());
    }
}

/// Raises an error in maintenance that runs a table owner's code: autovacuum, ANALYZE, REINDEX, the refresh of a
/// materialized view. The session's roles are then not those of the role that wrote this code.
pub fn refuse_restricted_operation() {
    if session::is_restricted_operation() {
        errors::restricted_operation();
    }
}

/// The settings of statements that run as the owner. Triggers of an administrator then do so too, so they must find no name
/// of the caller's. The checks of foreign keys plan for themselves, and a session keeps their plans while the tables grow.
pub const SETTINGS: Settings =
    &[(c"search_path", c"pg_catalog, pg_temp"), (c"enable_seqscan", c"off"), (c"jit", c"off")];

/// Runs `work` as the owner of a table of the extension.
pub fn as_owner_of<R>(table: &CStr, work: impl FnOnce() -> R) -> R {
    match member::relation(table) {
        Some((_, owner)) => session::as_owner(owner, work),
        None => errors::not_a_member(&format!("table workflow.{}", table.to_string_lossy())),
    }
}
