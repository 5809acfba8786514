//! Who sends the notifications of a transaction: the notifier, or the transaction itself.
//!
//! A transaction decides at its first event, and keeps to it. New transactions leave it to the notifier until the duty is
//! handed back: no worker is free, the notifier does not start, or the database shall have none. The notifier takes over
//! again when it can. The state says exactly which events are whose, so each is sent once (see `state.rs`).

use super::state::{Duty, State, Window};
use crate::ffi::shared::{self, Progress, Signals};
use crate::ffi::snapshot::Snapshot;
use crate::ffi::values::clock;
use crate::ffi::{area, cluster, session};
use crate::position::{self, Position};
use crate::signals;
use pgrx::pg_sys::Oid;
use std::mem::replace;
use std::ptr;
use std::sync::atomic::Ordering;

/// Registers the current transaction, at its first event. Returns whether it sends its own notifications.
pub fn register(entry: Option<usize>, transaction_id: u64) -> bool {
    let all = shared::progress();
    let notifies = entry.is_none_or(|entry| all[entry].is_handed_back);
    area::register(&all[..], session::database().to_u32(), transaction_id, notifies);
    notifies
}

/// Notes the first transaction with an event in this history. While it is in progress, no other session may see the table.
pub fn note_writer(entry: usize, history: Oid, transaction_id: u64) {
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    if shared::progress()[entry].history == history.to_u32() {
        return;
    }
    let progress = &mut shared::progress_mut()[entry];
    if replace(&mut progress.history, history.to_u32()) != history.to_u32() {
        progress.first_writer = transaction_id;
        // It may be one of an older extension.
        signals.last_id.store(0, Ordering::Release);
    }
}

/// Returns the history that a transaction in progress may have created: other sessions do not see it yet.
pub fn coming_history(entry: usize) -> Option<Oid> {
    let Progress { history, first_writer, .. } = shared::progress()[entry];
    (first_writer != 0 && Snapshot::latest().has_in_progress(first_writer)).then(|| Oid::from(history))
}

/// Gives the notifications a position, if they have none in this history: all events that are not visible now are sent.
/// `owner`: none if this session does not see the history yet.
pub fn begin(entry: usize, history: Oid, owner: Option<Oid>) {
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    if signals.history.load(Ordering::Acquire) == history.to_u32() {
        return;
    }
    note_writer(entry, history, 0);
    let floor_id = owner.map_or(0, |owner| session::restricted_to(owner, position::last_id));
    signals.last_id.fetch_max(floor_id, Ordering::AcqRel);
    // The first snapshot of a transaction may have to wait for others: not while the lock is held.
    drop(Snapshot::latest());
    let mut all = shared::progress_mut();
    if signals.history.load(Ordering::Acquire) == history.to_u32() {
        return;
    }
    let database = session::database().to_u32();
    // Before the snapshot: a transaction that has ended meanwhile is in both.
    let mut duty = Duty::all_but(area::transactions_of(&mut all[..], database, true));
    if all[entry].is_handed_back {
        let owed = area::transactions_of(&mut all[..], database, false);
        duty.end(owed, signals.last_id.load(Ordering::Acquire), cluster::next_transaction_id());
    }
    State { position: Position::above(floor_id), window: None, duty }.store(&mut all[..], entry);
    all[entry].commits = signals.owed.load(Ordering::Acquire);
    all[entry].caught_up_at = clock();
    signals.history.store(history.to_u32(), Ordering::Release);
}

/// Counts a session of this database as a listener. The first one takes the position away: the notifier may have slept
/// since the last one left, and the position is from then. The caller begins a new one.
pub fn add_listener() {
    let Some((all, listeners)) = shared::signals().zip(shared::listeners()) else { return };
    let count = listeners.of(session::database().to_u32());
    // The notifier takes it away under this lock too: from here on it sees the listener.
    let _locked = shared::progress_mut();
    if count.load(Ordering::SeqCst) == 0 {
        // Before the count: no notifier sends from there. The databases with this count are listened to from now on.
        let is_counted = |signals: &&Signals| ptr::eq(listeners.of(signals.database.load(Ordering::Acquire)), count);
        all.iter().filter(is_counted).for_each(|signals| signals.history.store(0, Ordering::Release));
    }
    count.fetch_add(1, Ordering::SeqCst);
}

/// Takes the position away if no session listens.
pub fn forget_unheard(signals: &Signals) {
    let _locked = shared::progress_mut();
    if !signals::is_listened(signals) {
        signals.history.store(0, Ordering::Release);
    }
}

/// Takes the position away: the next event or LISTEN begins with what is not visible then. Events that were copied here are
/// never sent, and the transaction IDs of another cluster say nothing about their place.
#[pgrx::pg_extern(sql = false)]
fn forget_notifications() {
    let Some(entry) = signals::entry_of(session::database()) else { return };
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    let _locked = shared::progress_mut();
    signals.history.store(0, Ordering::Release);
}

/// Hands the notifications of new transactions back to them. Those of older ones stay the notifier's.
pub fn hand_back(all: &mut [Progress], entry: usize) {
    let Some(signals) = shared::signals().map(|all| &all[entry]).filter(|_| !all[entry].is_handed_back) else { return };
    all[entry].is_handed_back = true;
    if signals.history.load(Ordering::Acquire) == 0 {
        return;
    }
    let mut state = State::load(all, entry);
    let owed = area::transactions_of(all, signals.database.load(Ordering::Acquire), false);
    state.duty.end(owed, signals.last_id.load(Ordering::Acquire), cluster::next_transaction_id());
    state.store(all, entry);
}

/// Has new transactions leave their notifications to the notifier, which calls this between two windows.
pub fn take_over(entry: usize, floor_id: i64) {
    let Some(signals) = shared::signals().map(|all| &all[entry]) else { return };
    let mut all = shared::progress_mut();
    if !replace(&mut all[entry].is_handed_back, false) || signals.history.load(Ordering::Acquire) == 0 {
        return;
    }
    let own = area::transactions_of(&mut all[..], session::database().to_u32(), true);
    let mut state = State::load(&all[..], entry);
    // What is left of the old duty is all in this window: the new one begins after it.
    state.window = Some(Window {
        commits: signals.owed.load(Ordering::Acquire),
        end: Position::above(floor_id),
        ceiling_id: i64::MAX,
        notified_id: 0,
        duty: replace(&mut state.duty, Duty::all_but(own)),
    });
    state.store(&mut all[..], entry);
}
