//! Leases of claims. The task's row has the lease with which it was claimed; renewals are in shared memory, so that they
//! write nothing. Without preloading, or if there is no room, a renewal writes the row.
//!
//! Leases are measured by the host's clock that cannot be set. If the server starts or is promoted, or the system's clock is
//! set, each claim gets a lease from then on; and if no worker of the database gave a sign for half a lease, as while the
//! server or the network stood still, each claim whose lease ended meanwhile gets another.

use super::token::Claim;
use crate::ffi::leases::{self, Key, Leases};
use crate::ffi::transaction::{self, OfTransaction};
use crate::ffi::values::{clock, monotonic};
use crate::ffi::{cluster, session};
use crate::{memory, signals};
use std::cell::RefCell;

/// The lease in the row of a task that runs by a claim.
#[derive(Clone, Copy)]
pub struct Held {
    pub claim: Claim,
    /// In microseconds since 2000.
    pub lease_expires_at: i64,
}

fn key(claim: &Claim) -> Key {
    let Claim { task, version, start_date, .. } = *claim;
    Key { database: session::database().to_u32(), task, version, start_date }
}

/// Whether leases are in shared memory. A standby leaves it as it is, so that the first look after a promotion is as that
/// after a start.
fn exist() -> bool {
    leases::exist() && !cluster::is_standby()
}

fn lock() -> Leases {
    leases::lock(signals::find())
}

/// Renews a lease in shared memory; returns false if the row must be written.
pub fn renew(claim: &Claim, duration: i64) -> bool {
    exist() && lock().set(key(claim), duration)
}

/// Whether shared memory has no room for the lease of a claim, so that renewals must write the row.
pub fn are_in_rows(claim: &Claim) -> bool {
    !exist() || !lock().has_room(key(claim))
}

impl Held {
    /// Whether the lease has run out. Not on a standby, which does not know renewals.
    pub fn has_expired(&self) -> bool {
        if cluster::is_standby() {
            return false;
        }
        if !leases::exist() {
            return self.lease_expires_at < clock();
        }
        let mut leases = lock();
        let now = leases.now;
        leases.signs().look(now);
        let known = leases.get(key(&self.claim));
        let signs = leases.signs();
        let (expires_at, duration) = known.unwrap_or_else(|| {
            let duration = self.lease_expires_at.saturating_sub(self.claim.start_date);
            let left = self.lease_expires_at.saturating_sub(clock());
            let from_step = signs.stepped_at.saturating_add(duration);
            // More is left than was given: the clock was set back since. A start after the end is that of a task
            // whose last change was in the future.
            let was_set_back = left > duration && duration > 0;
            (if was_set_back { from_step } else { now.saturating_add(left).max(from_step) }, duration)
        });
        expires_at < now && signs.end(expires_at, duration) < now
    }

    /// Returns the end of the lease, in microseconds since 2000.
    pub fn ends_at(&self) -> i64 {
        let lease = if exist() { lock().get(key(&self.claim)) } else { None };
        lease.map_or(self.lease_expires_at, |(expires_at, _)| clock().saturating_add(expires_at - monotonic()))
    }
}

/// The claims of a transaction: those that it made, with the times and their durations, and those that it ended.
#[derive(Default)]
struct Changed {
    made: Vec<(Key, i64, i64)>,
    ended: Vec<Key>,
}

thread_local! {
    static CHANGED: RefCell<OfTransaction<Changed>> = RefCell::default();
}

/// Notes claims of this transaction, which are a sign of their worker. Their leases begin when it commits.
pub fn note_claims<'a>(claims: impl ExactSizeIterator<Item = &'a Claim>) {
    if claims.len() == 0 || !exist() {
        return;
    }
    lock().note_sign();
    let now = monotonic();
    CHANGED.with_borrow_mut(|changed| {
        let made = &mut changed.get().made;
        claims.for_each(|claim| memory::push(made, (key(claim), now, claim.lease)));
    });
}

/// Notes that this transaction has ended a claim: its commit frees the room of the lease. If a savepoint can undo the end,
/// the lease stays until its time is over.
pub fn note_end(claim: &Claim) {
    if exist() && !transaction::is_nested() {
        CHANGED.with_borrow_mut(|changed| memory::push(&mut changed.get().ended, key(claim)));
    }
}

/// Begins the leases of the transaction that has just committed, if it took long, and frees those of ended claims. Nothing
/// here may fail.
pub fn commit() {
    /// The row's time is right enough.
    const SHORT: i64 = 100_000;
    let changed = CHANGED.with_borrow_mut(|changed| changed.known().map(std::mem::take));
    let Some(Changed { made, ended }) = changed else { return };
    let now = monotonic();
    let is_late = made.first().is_some_and(|(_, made_at, _)| now - made_at > SHORT);
    if !is_late && ended.is_empty() {
        return;
    }
    let mut leases = lock();
    for (key, _, duration) in made.into_iter().filter(|_| is_late) {
        leases.set(key, duration);
    }
    for key in ended {
        leases.free(key);
    }
}
