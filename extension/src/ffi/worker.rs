//! A background worker: asking for one, and what it needs of its own process.

use super::latch;
use pgrx::IntoDatum;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags};
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What pg_stat_activity calls it.
pub const BACKEND_TYPE: &str = "pg_workflow notifier";

/// Asks the postmaster for a process that runs the exported function `entry` for a database. Returns false where
/// max_worker_processes are there already. A worker that ends is not started again but by another call.
pub fn start(entry: &str, database: Oid) -> bool {
    BackgroundWorkerBuilder::new(BACKEND_TYPE)
        .set_type(BACKEND_TYPE)
        .set_library("pg_workflow")
        .set_function(entry)
        .enable_spi_access()
        .set_argument(database.into_datum())
        .load_dynamic()
        .is_ok()
}

/// In the worker: takes signals and connects to its database as the superuser. Ends the process where there is no
/// such database any more.
pub fn connect(database: Oid) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database), None);
    // A lock that somebody holds for long must not keep the worker from hearing that it is to stop.
    set(c"lock_timeout", c"1s");
    set(c"idle_in_transaction_session_timeout", c"0");
    set(c"statement_timeout", c"0");
    // What it does need not survive anything.
    set(c"synchronous_commit", c"off");
    // Each statement must see the present: see current_place() in sql/07_events.sql.
    set(c"default_transaction_isolation", c"read committed");
}

fn set(name: &CStr, value: &CStr) {
    // SAFETY: both are NUL-terminated; the settings exist and may be set by a superuser's session.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Whether the worker has been told to stop.
pub fn is_told_to_stop() -> bool {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if BackgroundWorker::sigterm_received() {
        TOLD.store(true, Ordering::Relaxed);
    }
    TOLD.load(Ordering::Relaxed)
}

/// Reads the configuration again where it has changed.
pub fn reload_if_told() {
    if BackgroundWorker::sighup_received() {
        // SAFETY: outside of a transaction, as PostgreSQL's own workers do.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
}

/// Waits on the latch, and does what other processes wait for all to do: DROP DATABASE has everybody close their files.
pub fn wait(at_most: Duration) {
    latch::wait(at_most);
    // SAFETY: outside of a transaction and of any lock, as in PostgreSQL's own workers.
    unsafe {
        if (&raw const pg_sys::ProcSignalBarrierPending).read_volatile() != 0 {
            pg_sys::ProcessProcSignalBarrier();
        }
    }
}

/// Shows in pg_stat_activity, and in the log's lines, who this is.
pub fn show_name() {
    set(c"application_name", c"pg_workflow notifier");
}

/// Shows in pg_stat_activity what the worker is doing; None: it waits.
pub fn show_activity(activity: Option<&CStr>) {
    let (state, text) = match activity {
        Some(text) => (pg_sys::BackendState::STATE_RUNNING, text.as_ptr()),
        None => (pg_sys::BackendState::STATE_IDLE, std::ptr::null()),
    };
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(state, text) };
}

/// Hands in what the worker has counted of the tables it reads.
pub fn report_statistics() {
    // SAFETY: outside of a transaction.
    unsafe { pg_sys::pgstat_report_stat(false) };
}
