//! Callbacks around three kinds of statement: LISTEN and UNLISTEN, COMMIT PREPARED and the like, and statements that need a
//! database without sessions.

use super::prepared;
use pgrx::pg_sys::{self, NodeTag, Oid};
use pgrx::prelude::PgTryBuilder;
use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

/// A statement that a database must have no other sessions for.
pub struct DatabaseStatement<'a> {
    pub action: Action,
    pub database: &'a str,
}

/// The action on the database.
#[derive(Clone, Copy)]
pub enum Action {
    Drop,
    /// To another tablespace.
    Move,
    Rename,
    Copy,
}

/// A change of the channels that the session listens to. It takes effect with the commit.
pub enum Channels {
    Listen(String),
    Unlisten(String),
    UnlistenAll,
}

/// The functions to call.
pub struct Callbacks {
    /// Before such a statement, which may still fail. Returns a database for the next callback.
    pub before_statement: fn(&DatabaseStatement) -> Option<Oid>,
    /// After such a statement, with its action if it has succeeded.
    pub after_statement: fn(Oid, Option<Action>),
    /// After a LISTEN, UNLISTEN or DISCARD ALL that succeeded.
    pub after_channels: fn(&Channels),
    /// After a COMMIT PREPARED that succeeded. It must not fail: the transaction has committed. The argument: whether the
    /// transaction is known to have no news for sessions that wait for tasks.
    pub after_commit_prepared: fn(bool),
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();
static NEXT: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();

/// Registers the callbacks. Call this once, while the library is preloaded.
pub fn register(callbacks: Callbacks) {
    CALLBACKS.get_or_init(|| callbacks);
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
        let node = (*statement).utilityStmt;
        let channels = channels(node);
        let commits_prepared = before_prepared(node);
        let run = || match NEXT.get().copied().flatten() {
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
        };
        match CALLBACKS.get().zip(database_statement(node)) {
            Some((callbacks, statement)) => run_alone(callbacks, &statement, run),
            None => run(),
        }
        if let (Some(callbacks), Some(channels)) = (CALLBACKS.get(), channels) {
            (callbacks.after_channels)(&channels);
        }
        if let (Some(callbacks), Some(has_no_news)) = (CALLBACKS.get(), commits_prepared) {
            (callbacks.after_commit_prepared)(has_no_news);
        }
    }
}

/// Runs a statement that needs a database without sessions, with the callbacks around it.
fn run_alone(callbacks: &Callbacks, statement: &DatabaseStatement, run: impl Fn()) {
    let Some(database) = (callbacks.before_statement)(statement) else { return run() };
    let action = std::cell::Cell::new(None);
    let whole = std::panic::AssertUnwindSafe(|| {
        run();
        action.set(Some(statement.action));
    });
    PgTryBuilder::new(whole).finally(|| (callbacks.after_statement)(database, action.get())).execute();
}

/// Returns the change of a statement's channels, if it has one.
///
/// # Safety
/// `node` must be a utility statement.
unsafe fn channels(node: *mut pg_sys::Node) -> Option<Channels> {
    // SAFETY: the tag identifies the struct.
    unsafe {
        match (*node).type_ {
            NodeTag::T_ListenStmt => {
                text((*node.cast::<pg_sys::ListenStmt>()).conditionname).map(str::to_owned).map(Channels::Listen)
            }
            NodeTag::T_UnlistenStmt => match (*node.cast::<pg_sys::UnlistenStmt>()).conditionname {
                all if all.is_null() => Some(Channels::UnlistenAll),
                channel => text(channel).map(str::to_owned).map(Channels::Unlisten),
            },
            NodeTag::T_DiscardStmt => {
                let is_all = (*node.cast::<pg_sys::DiscardStmt>()).target == pg_sys::DiscardMode::DISCARD_ALL;
                is_all.then_some(Channels::UnlistenAll)
            }
            _ => None,
        }
    }
}

/// Notes the name of a transaction that is prepared now, or that was. If the statement commits it, returns whether it is
/// known to have no news. After an error of the statement this is not known any more.
///
/// # Safety
/// `node` must be a utility statement.
unsafe fn before_prepared(node: *mut pg_sys::Node) -> Option<bool> {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT_PREPARED, TRANS_STMT_PREPARE, TRANS_STMT_ROLLBACK_PREPARED};
    // SAFETY: the tag identifies the struct.
    let (kind, name) = unsafe {
        if (*node).type_ != NodeTag::T_TransactionStmt {
            return None;
        }
        let statement = &*node.cast::<pg_sys::TransactionStmt>();
        (statement.kind, if statement.gid.is_null() { c"" } else { CStr::from_ptr(statement.gid) })
    };
    match kind {
        TRANS_STMT_PREPARE => prepared::begin(name),
        TRANS_STMT_ROLLBACK_PREPARED => _ = prepared::take(name),
        TRANS_STMT_COMMIT_PREPARED => return Some(prepared::take(name)),
        _ => (),
    }
    None
}

/// # Safety
/// `node` must be a utility statement that outlives the result.
unsafe fn database_statement<'a>(node: *mut pg_sys::Node) -> Option<DatabaseStatement<'a>> {
    // SAFETY: the tag identifies the struct.
    let (action, database) = unsafe {
        match (*node).type_ {
            NodeTag::T_DropdbStmt => (Action::Drop, text((*node.cast::<pg_sys::DropdbStmt>()).dbname)),
            NodeTag::T_AlterDatabaseStmt => {
                let alter = &*node.cast::<pg_sys::AlterDatabaseStmt>();
                (Action::Move, text(alter.dbname).filter(|_| option(alter.options, "tablespace").is_some()))
            }
            NodeTag::T_RenameStmt => {
                let rename = &*node.cast::<pg_sys::RenameStmt>();
                let is_database = rename.renameType == pg_sys::ObjectType::OBJECT_DATABASE;
                (Action::Rename, text(rename.subname).filter(|_| is_database))
            }
            NodeTag::T_CreatedbStmt => {
                // Without a value it is TEMPLATE DEFAULT.
                let template = option((*node.cast::<pg_sys::CreatedbStmt>()).options, "template")
                    .filter(|template| !(**template).arg.is_null());
                (Action::Copy, template.and_then(|template| text(pg_sys::defGetString(template))))
            }
            _ => return None,
        }
    };
    database.map(|database| DatabaseStatement { action, database })
}

/// Finds an option of a statement.
///
/// # Safety
/// `options` must be a statement's list of options.
unsafe fn option(options: *mut pg_sys::List, name: &str) -> Option<*mut pg_sys::DefElem> {
    // SAFETY: the list's elements are DefElems.
    unsafe {
        let count = if options.is_null() { 0 } else { (*options).length };
        let option = |n| (*(*options).elements.add(n)).ptr_value.cast::<pg_sys::DefElem>();
        (0..count as usize).map(option).find(|option| text((**option).defname) == Some(name))
    }
}

/// # Safety
/// `text` must be null or NUL-terminated, and outlive the result.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    // SAFETY: the caller's promise.
    if text.is_null() { None } else { unsafe { CStr::from_ptr(text) }.to_str().ok() }
}
