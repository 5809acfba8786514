//! A background worker: starting one, and the settings and signals of its process.

use super::latch;
use pgrx::IntoDatum;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags};
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Its name in pg_stat_activity.
pub const BACKEND_TYPE: &str = "pg_workflow notifier";

/// How long PostgreSQL waits before it restarts a worker that has ended with an error, or by exit_to_restart().
const RESTART_TIME: Duration = Duration::from_secs(1);

/// Starts a process that runs the exported function `entry` for a database. Returns false if there are already
/// max_worker_processes.
pub fn start(entry: &str, database: Oid) -> bool {
    BackgroundWorkerBuilder::new(BACKEND_TYPE)
        .set_type(BACKEND_TYPE)
        .set_library(&library())
        .set_restart_time(Some(RESTART_TIME))
        .set_function(entry)
        .enable_spi_access()
        .set_argument(database.into_datum())
        .load_dynamic()
        .is_ok()
}

/// Returns the path of this library. Its name alone would be looked up in dynamic_library_path, which may lack the folder
/// that the library was loaded from.
fn library() -> String {
    let mut found = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: fills the struct, and returns a NUL-terminated path that lives as long as the library is loaded.
    let path = unsafe {
        if libc::dladdr(library as *const c_void, found.as_mut_ptr()) == 0 {
            return DEFAULT_LIBRARY.to_owned();
        }
        CStr::from_ptr(found.assume_init().dli_fname).to_string_lossy().into_owned()
    };
    // PostgreSQL would cut it.
    if path.len() < pg_sys::BGW_MAXLEN as usize { path } else { DEFAULT_LIBRARY.to_owned() }
}

const DEFAULT_LIBRARY: &str = "$libdir/pg_workflow";

/// Ends the process. PostgreSQL restarts it after RESTART_TIME.
#[allow(unreachable_code)]
pub fn exit_to_restart() -> ! {
    // SAFETY: ends the process as PostgreSQL's own workers do.
    unsafe { pg_sys::proc_exit(1) };
    // For PostgreSQL 18, the binding does not tell that it never returns.
    unreachable!()
}

/// Handles signals and connects the worker to its database as the superuser. Ends the process if the database no longer
/// exists.
pub fn connect(database: Oid) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // Sessions that stay in a database with ALLOW_CONNECTIONS false still listen.
    let flags = pg_sys::BGWORKER_BYPASS_ALLOWCONN;
    // SAFETY: called once, at the start of a background worker.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, Oid::INVALID, flags) };
    // While it waits for a lock, the worker does not notice a request to stop.
    set(c"lock_timeout", c"1s");
    set(c"idle_in_transaction_session_timeout", c"0");
    set(c"statement_timeout", c"0");
    // Nothing that the worker does must survive a crash.
    set(c"synchronous_commit", c"off");
    // Each statement needs a new snapshot: see current_place() in sql/08_snapshot.sql.
    set(c"default_transaction_isolation", c"read committed");
}

fn set(name: &CStr, value: &CStr) {
    // SAFETY: both are NUL-terminated; the settings exist, and a superuser may set them.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Whether the worker has received SIGTERM.
pub fn must_stop() -> bool {
    static RECEIVED: AtomicBool = AtomicBool::new(false);
    if BackgroundWorker::sigterm_received() {
        RECEIVED.store(true, Ordering::Relaxed);
    }
    RECEIVED.load(Ordering::Relaxed)
}

/// Rereads the configuration after SIGHUP. Returns whether it did.
pub fn reload_if_signaled() -> bool {
    let is_signaled = BackgroundWorker::sighup_received();
    if is_signaled {
        // SAFETY: outside of a transaction, as PostgreSQL's own workers do.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
    is_signaled
}

/// Waits on the latch, then joins barriers that other processes wait for: DROP DATABASE makes all close their files.
pub fn wait(at_most: Duration) {
    latch::wait(at_most);
    // SAFETY: outside of a transaction, with no lock held, as in PostgreSQL's own workers.
    unsafe {
        if (&raw const pg_sys::ProcSignalBarrierPending).read_volatile() != 0 {
            pg_sys::ProcessProcSignalBarrier();
        }
    }
}

/// Sets the application name, for pg_stat_activity and the log.
pub fn show_name() {
    set(c"application_name", c"pg_workflow notifier");
}

/// Shows an activity in pg_stat_activity; `None` shows that the worker is idle.
pub fn show_activity(activity: Option<&CStr>) {
    let (state, text) = match activity {
        Some(text) => (pg_sys::BackendState::STATE_RUNNING, text.as_ptr()),
        None => (pg_sys::BackendState::STATE_IDLE, std::ptr::null()),
    };
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(state, text) };
}

/// Reports the worker's table statistics.
pub fn report_statistics() {
    // SAFETY: outside of a transaction.
    unsafe { pg_sys::pgstat_report_stat(false) };
}
