//! Starting the notifier, and stopping it.

use super::handover;
use crate::ffi::shared::{self, Signals};
use crate::ffi::utility::{Action, DatabaseStatement};
use crate::ffi::values::clock;
use crate::ffi::{catalog, error, latch, member, session, worker};
use crate::settings::{self, Notification};
use crate::signals;
use pgrx::pg_sys::Oid;
use std::sync::atomic::Ordering;

/// How long transactions rely on a notifier that has been requested and does not run.
const START_TIMEOUT_MICROSECONDS: i64 = 5_000_000;
/// How often a notifier is requested if no process is free for it.
const REQUEST_INTERVAL_MICROSECONDS: i64 = 1_000_000;
/// How long the notifier stays away from a database that a statement wants for itself, unless the statement ends before.
const LEAVE_MICROSECONDS: i64 = 7_000_000;

/// Why a notifier does not run, for the view and the log.
const NOT_STARTED: &str = "the notifier has not started within 5 s";
const NO_WORKER: &str = "no background worker is free for the notifier";

/// Ensures that a database's notifications have a position if a session listens, and that its notifier runs or comes.
/// If it cannot, hands the notifications back to the transactions.
pub fn ensure_notifier(entry: usize, history: Oid, owner: Option<Oid>) {
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    let is_listened = signals::is_listened(signals);
    let is_served = settings::serves(|| catalog::database_name(session::database()));
    if is_served && is_listened {
        handover::begin(entry, history, owner);
    }
    if !signals.notifier.load(Ordering::Acquire).is_null() {
        return;
    }
    let progress = shared::progress()[entry];
    let waited = clock() - progress.requested_at;
    if progress.is_registered && waited < 0 {
        // The clock was set back: PostgreSQL restarts it only at the time by the clock that it had before.
        shared::progress_mut()[entry].is_registered = false;
        request(entry);
    } else if progress.is_registered {
        // The postmaster starts it again and again.
        if waited > START_TIMEOUT_MICROSECONDS && !progress.is_handed_back {
            give_up(entry, signals);
        }
    } else if !is_served {
        handover::hand_back(&mut shared::progress_mut()[..], entry);
    } else if (is_listened || settings::notification() != Notification::Off)
        && (!progress.is_handed_back || waited > REQUEST_INTERVAL_MICROSECONDS)
    {
        request(entry);
    }
}

/// Requests a notifier.
fn request(entry: usize) {
    let is_rejected = {
        let mut all = shared::progress_mut();
        if all[entry].is_registered || all[entry].pid != 0 {
            return;
        }
        all[entry].requested_at = clock();
        // While the lock is held: no transaction relies on a notifier that does not come.
        all[entry].is_registered = worker::start("pg_workflow_notifier", session::database());
        let is_rejected = !all[entry].is_registered && !all[entry].is_handed_back;
        if is_rejected {
            handover::hand_back(&mut all[..], entry);
            all[entry].fail(NO_WORKER, clock());
        }
        is_rejected
    };
    if is_rejected {
        log(NO_WORKER, "Raise max_worker_processes and restart.");
    }
}

/// Hands the notifications back because the notifier does not start.
fn give_up(entry: usize, signals: &Signals) {
    {
        let mut all = shared::progress_mut();
        if !signals.notifier.load(Ordering::Acquire).is_null() || all[entry].is_handed_back {
            return;
        }
        handover::hand_back(&mut all[..], entry);
        all[entry].fail(NOT_STARTED, clock());
    }
    log(NOT_STARTED, "See the lines of pg_workflow notifier before this one. PostgreSQL keeps trying to start it.");
}

fn log(cause: &str, hint: &str) {
    error::log(&format!("each transaction sends its own notifications: {cause}"), hint);
}

/// Notifies this database's sessions of all events that commit from now on, after a LISTEN.
pub fn after_listen() {
    if let Some((history, owner)) = member::relation(c"state_history") {
        signals::entry().into_iter().for_each(|entry| ensure_notifier(entry, history, Some(owner)));
    } else if let Some(entry) = signals::find() {
        // Without the extension the database needs no entry; the first event claims one, and creates the position. Unless
        // a transaction that is creating the extension has written its first event already.
        handover::coming_history(entry).into_iter().for_each(|history| ensure_notifier(entry, history, None));
    }
}

/// Has the notifier leave a database that a statement drops, moves, renames or copies, if the role may do that. The
/// statement itself waits some seconds for other sessions to end. Returns the database.
pub fn before_statement(statement: &DatabaseStatement) -> Option<Oid> {
    let database = catalog::database_oid(statement.database)?;
    if !may_execute(statement.action, database) {
        return None;
    }
    let signals = &shared::signals()?[signals::entry_of(database)?];
    signals.leave_until.store(clock() + LEAVE_MICROSECONDS, Ordering::Release);
    latch::set(signals.notifier.load(Ordering::Acquire));
    Some(database)
}

/// Lets the notifier come back, or frees the entry of a database that has been dropped. `action`: none if it failed.
pub fn after_statement(database: Oid, action: Option<Action>) {
    let Some((all, entry)) = shared::signals().zip(signals::entry_of(database)) else { return };
    if matches!(action, Some(Action::Drop)) {
        let progress = shared::progress_mut();
        if progress[entry].pid == 0 {
            all[entry].database.store(0, Ordering::SeqCst);
        }
    }
    all[entry].leave_until.store(0, Ordering::Release);
}

/// Repeats PostgreSQL's own checks, which come too late: the statement makes them before it waits for other sessions.
fn may_execute(action: Action, database: Oid) -> bool {
    let Some(rights) = catalog::database_rights(database) else { return false };
    let owns = session::has_privileges_of(rights.owner);
    let creates = || session::is_superuser() || catalog::creates_databases(session::user());
    match action {
        Action::Drop | Action::Move => owns,
        Action::Rename => owns && creates(),
        Action::Copy => creates() && (owns || rights.is_template),
    }
}
