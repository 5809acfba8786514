//! Starting the notifier, giving it a position to begin from, and stopping it.

use crate::event::CHANNEL;
use crate::ffi::utility::{Action, DatabaseStatement};
use crate::ffi::values::clock;
use crate::ffi::{catalog, latch, member, session, shared, worker};
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
    let position = session::restricted_to(owner, Position::current);
    let mut all = shared::progress_mut();
    if signals.history.load(Ordering::Acquire) != history.to_u32() {
        position.store(&mut all[entry]);
        all[entry].commits = signals.commits.load(Ordering::Acquire);
        all[entry].caught_up_at = clock();
        signals.history.store(history.to_u32(), Ordering::Release);
    }
}

/// Notifies this database's sessions of all events that commit from now on, after a LISTEN.
pub fn after_listen(channel: &str) {
    if channel != CHANNEL {
        return;
    }
    signals::listen();
    // Without the extension the database needs no entry; the first event claims one, and creates the position.
    let Some((history, owner)) = member::relation(c"state_history") else { return };
    let Some(entry) = signals::entry() else { return };
    ensure_position(entry, history, owner);
}

/// Stops the notifier of a database that a statement drops, moves, renames or copies, if the role may do that. The
/// statement itself waits some seconds for other sessions to end. The next event starts the notifier again.
pub fn before_statement(statement: &DatabaseStatement) {
    let Some(database) = catalog::database_oid(statement.database) else { return };
    if !may_execute(statement.action, database) {
        return;
    }
    let Some(all) = shared::signals() else { return };
    if let Some(signals) = all.iter().find(|signals| signals.database.load(Ordering::Acquire) == database.to_u32()) {
        signals.leave.store(true, Ordering::Release);
        latch::set(signals.notifier.load(Ordering::Acquire));
    }
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
