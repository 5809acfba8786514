//! A callback before two kinds of statement: LISTEN, and statements that need a database without sessions.

use pgrx::pg_sys::{self, NodeTag};
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

/// A statement that the callback gets.
pub enum Statement<'a> {
    /// LISTEN on this channel.
    Listen(&'a str),
    /// DROP, ALTER or CREATE DATABASE: this database must have no other sessions.
    NeedsDatabase(&'a str),
}

static CALLBACK: OnceLock<fn(Statement)> = OnceLock::new();
static NEXT: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();

/// Calls `callback` before each such statement. Call this once, while the library is preloaded.
pub fn before_each(callback: fn(Statement)) {
    CALLBACK.get_or_init(|| callback);
    // SAFETY: the postmaster has no other thread; our hook calls the earlier one.
    unsafe {
        NEXT.get_or_init(|| pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

// PostgreSQL defines the arguments.
#[allow(clippy::too_many_arguments)]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: PostgreSQL passes a utility statement, and accepts the same arguments.
    unsafe {
        if let (Some(callback), Some(statement)) = (CALLBACK.get(), statement_of((*statement).utilityStmt)) {
            callback(statement);
        }
        match NEXT.get().copied().flatten() {
            Some(next) => pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
                next(statement, text, read_only, context, parameters, environment, destination, completion)
            }),
            None => pg_sys::standard_ProcessUtility(
                statement,
                text,
                read_only,
                context,
                parameters,
                environment,
                destination,
                completion,
            ),
        }
    }
}

/// # Safety
/// `node` must be a utility statement that outlives the result.
unsafe fn statement_of<'a>(node: *mut pg_sys::Node) -> Option<Statement<'a>> {
    // SAFETY: the tag identifies the struct.
    unsafe {
        match (*node).type_ {
            NodeTag::T_ListenStmt => text((*node.cast::<pg_sys::ListenStmt>()).conditionname).map(Statement::Listen),
            NodeTag::T_DropdbStmt => text((*node.cast::<pg_sys::DropdbStmt>()).dbname).map(Statement::NeedsDatabase),
            NodeTag::T_AlterDatabaseStmt => {
                text((*node.cast::<pg_sys::AlterDatabaseStmt>()).dbname).map(Statement::NeedsDatabase)
            }
            NodeTag::T_RenameStmt => {
                let rename = &*node.cast::<pg_sys::RenameStmt>();
                let is_database = rename.renameType == pg_sys::ObjectType::OBJECT_DATABASE;
                text(rename.subname).filter(|_| is_database).map(Statement::NeedsDatabase)
            }
            NodeTag::T_CreatedbStmt => {
                template((*node.cast::<pg_sys::CreatedbStmt>()).options).map(Statement::NeedsDatabase)
            }
            _ => None,
        }
    }
}

/// Returns the database that CREATE DATABASE copies.
///
/// # Safety
/// `options` must be the list of options of such a statement.
unsafe fn template<'a>(options: *mut pg_sys::List) -> Option<&'a str> {
    // SAFETY: the list's elements are DefElems.
    unsafe {
        let count = if options.is_null() { 0 } else { (*options).length };
        let option = |n| (*(*options).elements.add(n)).ptr_value.cast::<pg_sys::DefElem>();
        let options = (0..count as usize).map(option);
        let mut named = options.filter(|option| text((**option).defname) == Some("template"));
        named.next().and_then(|option| text(pg_sys::defGetString(option)))
    }
}

/// # Safety
/// `text` must be null or NUL-terminated, and outlive the result.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    // SAFETY: the caller's promise.
    if text.is_null() { None } else { unsafe { CStr::from_ptr(text) }.to_str().ok() }
}
