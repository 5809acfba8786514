//! Hearing of two kinds of statement before they run: LISTEN, and those that need a database for themselves.

use pgrx::pg_sys::{self, NodeTag};
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

/// A statement, as far as it matters here.
pub enum Statement<'a> {
    /// LISTEN on this channel.
    Listen(&'a str),
    /// DROP, ALTER or CREATE DATABASE: this database must have no sessions.
    NeedsDatabase(&'a str),
}

static HEAR: OnceLock<fn(Statement)> = OnceLock::new();
static NEXT: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();

/// Calls `hear` before each such statement. To be called once, while the library is preloaded.
pub fn before_each(hear: fn(Statement)) {
    HEAR.get_or_init(|| hear);
    // SAFETY: the postmaster has no other thread; whoever was there before is called after us.
    unsafe {
        NEXT.get_or_init(|| pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

// The arguments are PostgreSQL's.
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
    // SAFETY: PostgreSQL passes a utility statement, and takes the same arguments back.
    unsafe {
        if let (Some(hear), Some(heard)) = (HEAR.get(), statement_of((*statement).utilityStmt)) {
            hear(heard);
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
    // SAFETY: the tag says which struct it is.
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

/// What CREATE DATABASE copies.
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
