//! Transactions: the current one's ID, a callback at the end, and running one.

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, Datum, XactEvent};
use pgrx::prelude::PgTryBuilder;
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A step of the end of a marked transaction.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    /// It is about to commit, and will not wait for the disk.
    CommitsUnflushed,
    /// It has committed, and is visible to others.
    Committed,
    /// A transaction that was about to commit unflushed has committed or rolled back.
    UnflushedEnded,
    /// It is prepared. Any transaction comes to this step, also without a mark.
    Prepared,
}

/// The callback. It must not fail: at most of these steps an error would abort the backend.
pub type OnEnd = fn(mark: usize, end: End);

/// Of this process: the callback, the mark of the current transaction, and whether it commits unflushed.
static ON_END: OnceLock<OnEnd> = OnceLock::new();
static MARK: AtomicUsize = AtomicUsize::new(NONE);
static UNFLUSHED: AtomicBool = AtomicBool::new(false);
const NONE: usize = usize::MAX;

/// Registers the callback. Called once: backends inherit it from the postmaster.
pub fn register(on_end: OnEnd) {
    ON_END.get_or_init(|| on_end);
    // SAFETY: the function is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) };
}

/// The callback before the end.
static BEFORE_END: OnceLock<fn(Ending)> = OnceLock::new();

/// How a transaction is about to end.
#[derive(Clone, Copy, PartialEq)]
pub enum Ending {
    Commit,
    /// It keeps its locks, perhaps for long.
    Prepare,
}

/// Registers a callback that runs before each commit and each PREPARE TRANSACTION, where the transaction can still write
/// and fail. After `register`: the last one that was registered is called first.
pub fn register_before_end(before_end: fn(Ending)) {
    BEFORE_END.get_or_init(|| before_end);
    // SAFETY: the function is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(before_end_of_transaction), std::ptr::null_mut()) };
}

#[pgrx::pg_guard]
extern "C-unwind" fn before_end_of_transaction(event: XactEvent::Type, _argument: *mut c_void) {
    let ending = match event {
        XactEvent::XACT_EVENT_PRE_COMMIT => Ending::Commit,
        XactEvent::XACT_EVENT_PRE_PREPARE => Ending::Prepare,
        _ => return,
    };
    BEFORE_END.get().into_iter().for_each(|before_end| before_end(ending));
}

/// Runs `work` with a snapshot of now, as in a transaction that may write and in which each statement has a snapshot of its
/// own, whatever its isolation level is. Only where no statement of it follows: it loses its own snapshot. After an error the
/// next transaction begins with its own.
pub fn with_latest_snapshots<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: values of this process, restored below. The memory of the transaction is that of its end.
    unsafe {
        let kept = (pg_sys::XactIsoLevel, pg_sys::XactReadOnly);
        let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        (pg_sys::XactIsoLevel, pg_sys::XactReadOnly) = (pg_sys::XACT_READ_COMMITTED as i32, false);
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        (pg_sys::XactIsoLevel, pg_sys::XactReadOnly) = kept;
        pg_sys::MemoryContextSwitchTo(context);
        result
    }
}

/// Fires deferred triggers, as the end of a transaction does.
pub fn fire_deferred_triggers() {
    // SAFETY: called before the end of a transaction, while no statement runs.
    unsafe { pg_sys::AfterTriggerFireDeferred() };
}

/// Whether a callback is registered.
pub fn is_registered() -> bool {
    ON_END.get().is_some()
}

/// Returns the ID of the current top-level transaction, as an xid8.
pub fn id() -> Datum {
    Datum::from(number())
}

/// Returns the ID of the current top-level transaction as a number.
pub fn number() -> u64 {
    // SAFETY: called within a transaction.
    unsafe { pg_sys::GetTopFullTransactionId() }.value
}

/// Returns the ID of the current top-level transaction as a number; `None` if it has none yet.
pub fn assigned_id() -> Option<u64> {
    // SAFETY: a value of this process.
    let id = unsafe { pg_sys::GetTopFullTransactionIdIfAny() }.value;
    (id != 0).then_some(id)
}

/// Returns the current subtransaction: each savepoint begins one, and so does a rollback to it.
pub fn level() -> pg_sys::SubTransactionId {
    // SAFETY: called within a transaction.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// Whether a savepoint can undo the current work.
pub fn is_nested() -> bool {
    // SAFETY: a value of this process.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() > 1 }
}

/// A value of the current top-level transaction. A later one begins with the default.
#[derive(Default)]
pub struct OfTransaction<T> {
    transaction: u64,
    value: T,
}

impl<T: Default> OfTransaction<T> {
    /// Returns the value, and gives the transaction an ID if it has none.
    pub fn get(&mut self) -> &mut T {
        let own = number();
        if self.transaction != own {
            *self = OfTransaction { transaction: own, value: T::default() };
        }
        &mut self.value
    }

    /// Returns the value if this transaction has used it.
    pub fn known(&mut self) -> Option<&mut T> {
        (assigned_id() == Some(self.transaction)).then_some(&mut self.value)
    }
}

/// Lets the following commands of the current transaction see all that it has written.
pub fn next_command() {
    // SAFETY: called within a transaction, not in parallel mode.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// Whether the current transaction is a block: BEGIN, or several statements in one query string.
pub fn is_block() -> bool {
    // SAFETY: a value of this process.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Whether all statements of the current transaction have one snapshot.
pub fn has_fixed_snapshot() -> bool {
    // SAFETY: a value of this process.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Whether the statement of the client takes longer than statement_timeout allows.
pub fn has_timed_out() -> bool {
    // SAFETY: values of this process, and the system's clock.
    unsafe {
        let (limit, began) = (i64::from(pg_sys::StatementTimeout), pg_sys::GetCurrentStatementStartTimestamp());
        limit > 0 && pg_sys::GetCurrentTimestamp() - began >= limit * 1000
    }
}

/// Whether the current transaction may write nothing: on a standby none may.
pub fn is_read_only() -> bool {
    // SAFETY: a value of this process.
    unsafe { pg_sys::XactReadOnly }
}

/// Marks the current transaction.
pub fn mark(mark: usize) {
    MARK.store(mark, Ordering::Relaxed);
}

fn commits_unflushed() -> bool {
    // SAFETY: a setting of this process.
    unsafe { pg_sys::synchronous_commit == pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 }
}

extern "C-unwind" fn at_end(event: XactEvent::Type, _argument: *mut c_void) {
    let mark = MARK.load(Ordering::Relaxed);
    let Some(on_end) = ON_END.get() else { return };
    if event == XactEvent::XACT_EVENT_PREPARE {
        on_end(mark, End::Prepared);
    }
    if mark == NONE {
        return;
    }
    match event {
        XactEvent::XACT_EVENT_PRE_COMMIT if commits_unflushed() => {
            UNFLUSHED.store(true, Ordering::Relaxed);
            on_end(mark, End::CommitsUnflushed);
        }
        XactEvent::XACT_EVENT_COMMIT | XactEvent::XACT_EVENT_ABORT | XactEvent::XACT_EVENT_PREPARE => {
            MARK.store(NONE, Ordering::Relaxed);
            if event == XactEvent::XACT_EVENT_COMMIT {
                on_end(mark, End::Committed);
            }
            if UNFLUSHED.swap(false, Ordering::Relaxed) {
                on_end(mark, End::UnflushedEnded);
            }
        }
        _ => {}
    }
}

/// Why a transaction was rolled back.
pub struct Failure {
    /// Its SQLSTATE, in PostgreSQL's form: triggers can raise some that pgrx has no name for.
    pub code: i32,
    pub message: String,
}

impl Failure {
    fn is(&self, codes: &[PgSqlErrorCode]) -> bool {
        codes.iter().any(|code| *code as i32 == self.code)
    }

    /// Whether lock_timeout has passed.
    pub fn is_lock_timeout(&self) -> bool {
        self.is(&[PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE])
    }

    /// Whether the statement was canceled, by a user or by statement_timeout.
    pub fn is_cancel(&self) -> bool {
        self.is(&[PgSqlErrorCode::ERRCODE_QUERY_CANCELED])
    }

    /// Whether another transaction was in the way: the same can succeed at once.
    pub fn is_conflict(&self) -> bool {
        self.is(&[
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED,
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        ])
    }

    /// Whether the cause has passed with the rollback: a serialization failure, or a deadlock.
    pub fn is_passing(&self) -> bool {
        self.is_of_class(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE)
    }

    /// Whether the server lacks memory or disk, which any other work would meet, too.
    pub fn is_of_server(&self) -> bool {
        self.is(&[PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, PgSqlErrorCode::ERRCODE_DISK_FULL])
    }

    /// Whether the data itself can be the cause: it is invalid or corrupt.
    pub fn is_of_data(&self) -> bool {
        self.is_of_class(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION)
            || self.is_of_class(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR)
    }

    /// Whether the first two of the five characters are these, of 6 bits each.
    fn is_of_class(&self, code: PgSqlErrorCode) -> bool {
        self.code & 0xfff == code as i32 & 0xfff
    }
}

/// Runs `work` in a new transaction, in a process that has none. An error rolls it back.
pub fn run<R>(work: impl FnOnce() -> R) -> Result<R, Failure> {
    let whole = AssertUnwindSafe(|| {
        // SAFETY: no transaction is in progress; an error in between is handled below.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let result = work();
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
            Ok(result)
        }
    });
    let result = PgTryBuilder::new(whole).catch_others(|error| Err(failure(&error))).execute();
    if result.is_err() {
        // SAFETY: ends the failed transaction.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    result
}

/// Returns what an error says. Within the handler that has caught it: PostgreSQL still has its error then.
pub fn failure(error: &pg_sys::panic::CaughtError) -> Failure {
    use pg_sys::panic::CaughtError::{ErrorReport, PostgresError, RustPanic};
    let (PostgresError(report) | ErrorReport(report) | RustPanic { ereport: report, .. }) = error;
    let code = match error {
        // SAFETY: the error is on PostgreSQL's stack until the handler returns.
        PostgresError(_) => unsafe { pg_sys::geterrcode() },
        _ => report.sql_error_code() as i32,
    };
    Failure { code, message: report.message().to_owned() }
}
