//! Starting the notifier, giving it a position to begin from, and stopping it.

use crate::event::CHANNEL;
use crate::ffi::utility::Statement;
use crate::ffi::values::clock;
use crate::ffi::{catalog, cluster, latch, session, shared, worker};
use crate::position::Position;
use crate::signals;
use pgrx::pg_sys::Oid;
use std::sync::atomic::Ordering;

/// How long to wait for a requested notifier to start before requesting it again.
const START_TIMEOUT_MICROSECONDS: i64 = 5_000_000;

/// Ensures that a database's notifier runs and has a position. Returns false if no process is free for it.
pub fn ensure_notifier(entry: usize, history: Oid, owner: Oid) -> bool {
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return false };
    if signals.listened.load(Ordering::Acquire) {
        ensure_position(entry, history, owner);
    }
    if !signals.notifier.load(Ordering::Acquire).is_null() {
        return true;
    }
    let now = clock();
    {
        let progress = &mut shared::progress_mut()[entry];
        if progress.pid != 0 || now - progress.requested_at < START_TIMEOUT_MICROSECONDS {
            return true;
        }
        progress.requested_at = now;
    }
    let started = worker::start("pg_workflow_notifier", session::database());
    if !started {
        shared::progress_mut()[entry].requested_at = 0;
    }
    started
}

/// Gives the notifier its first position: it notifies of all events that are not visible now. The first LISTEN does
/// this, or the first event if the extension is created later.
fn ensure_position(entry: usize, history: Oid, owner: Oid) {
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    if signals.history.load(Ordering::Acquire) == history.to_u32() {
        return;
    }
    let position = session::as_owner(owner, Position::current);
    let mut all = shared::progress_mut();
    if signals.history.load(Ordering::Acquire) != history.to_u32() {
        position.store(&mut all[entry]);
        all[entry].commits = signals.commits.load(Ordering::Acquire);
        all[entry].caught_up_at = clock();
        signals.history.store(history.to_u32(), Ordering::Release);
    }
}

/// Prepares the notifier for a statement that is about to run.
pub fn before_statement(statement: Statement) {
    match statement {
        Statement::Listen(CHANNEL) => begin_listening(),
        Statement::Listen(_) => (),
        Statement::NeedsDatabase(name) => leave(name),
    }
}

/// Notifies this database's sessions of all events that commit from now on.
fn begin_listening() {
    if cluster::is_standby() {
        return;
    }
    let Some(entry) = signals::entry() else { return };
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    if signals.listened.load(Ordering::Acquire) {
        return;
    }
    // Without the extension there is no position yet; the first event creates it.
    if let Some((history, owner)) = catalog::table(c"workflow", c"state_history") {
        ensure_position(entry, history, owner);
    }
    signals.listened.store(true, Ordering::Release);
}

/// Stops the notifier of a database that a statement drops, renames, moves or copies. The statement itself waits some
/// seconds for other sessions to end. The next event starts the notifier again.
fn leave(database: &str) {
    let Some(oid) = catalog::database_oid(database) else { return };
    let Some(all) = shared::signals() else { return };
    if let Some(signals) = all.iter().find(|signals| signals.database.load(Ordering::Acquire) == oid.to_u32()) {
        signals.leave.store(true, Ordering::Release);
        latch::set(signals.notifier.load(Ordering::Acquire));
    }
}
