//! Leases of claims. The task's row has the lease with which it was claimed; renewals are in shared memory, so that they
//! write nothing. Without preloading, or if there is no room, a renewal writes the row.
//!
//! Leases are measured by the host's clock that cannot be set. If the server starts or is promoted, or the system's clock is set, each
//! claim gets a lease from then on; and if no worker gave a sign for half a lease, as while the server or the network stood
//! still, each claim whose lease ended meanwhile gets another.

use super::token::Claim;
use crate::ffi::leases::{self, Key};
use crate::ffi::transaction::OfTransaction;
use crate::ffi::values::{clock, monotonic};
use crate::ffi::{cluster, session};
use crate::memory;
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

/// Notes that a worker lives.
pub fn note_sign() {
    if exist() {
        let (mut signs, now) = (leases::lock(), monotonic());
        signs.note_offset(clock(), now);
        signs.note(now);
    }
}

/// Renews a lease in shared memory; returns false if the row must be written.
pub fn renew(claim: &Claim, duration: i64) -> bool {
    let now = monotonic();
    exist() && leases::set(&mut leases::lock(), key(claim), now.saturating_add(duration), duration, now)
}

impl Held {
    /// Whether the lease has run out. Not on a standby, which does not know renewals.
    pub fn has_expired(&self) -> bool {
        if cluster::is_standby() {
            return false;
        }
        if !exist() {
            return self.lease_expires_at < clock();
        }
        let (mut signs, now, key) = (leases::lock(), monotonic(), key(&self.claim));
        signs.note_offset(clock(), now);
        signs.look(now);
        let (expires_at, duration) = match leases::get(&mut signs, key) {
            Some(lease) => lease,
            None => {
                let duration = self.lease_expires_at.saturating_sub(self.claim.start_date);
                let left = self.lease_expires_at.saturating_sub(clock());
                let from_step = signs.stepped_at.saturating_add(duration);
                // More is left than was given: the clock was set back since. A start after the end is that of a task
                // whose last change was in the future.
                let was_set_back = left > duration && duration > 0;
                (if was_set_back { from_step } else { now.saturating_add(left).max(from_step) }, duration)
            }
        };
        let grace = signs.silence(duration / 2, expires_at).map_or(0, |ended| ended.saturating_add(duration));
        expires_at.max(grace) < now
    }

    /// Returns the end of the lease, in microseconds since 2000.
    pub fn ends_at(&self) -> i64 {
        let lease = if exist() { leases::get(&mut leases::lock(), key(&self.claim)) } else { None };
        lease.map_or(self.lease_expires_at, |(expires_at, _)| clock().saturating_add(expires_at - monotonic()))
    }
}

thread_local! {
    /// The claims of a transaction, with the times at which they were made and their durations.
    static MADE: RefCell<OfTransaction<Vec<(Key, i64, i64)>>> = RefCell::default();
}

/// Notes claims of this transaction: their leases begin when it commits.
pub fn note_claims<'a>(claims: impl ExactSizeIterator<Item = &'a Claim>) {
    if claims.len() == 0 || !exist() {
        return;
    }
    let now = monotonic();
    MADE.with_borrow_mut(|made| {
        let made = made.get();
        claims.for_each(|claim| memory::push(made, (key(claim), now, claim.lease)));
    });
}

/// Begins the leases of the transaction that has just committed, if it took long. Nothing here may fail.
pub fn begin() {
    /// The row's time is right enough.
    const SHORT: i64 = 100_000;
    let Some(claims) = MADE.with_borrow_mut(|made| made.known().map(std::mem::take)) else { return };
    let now = monotonic();
    if claims.first().is_some_and(|(_, made_at, _)| now - made_at > SHORT) {
        let mut signs = leases::lock();
        for (key, _, duration) in claims {
            leases::set(&mut signs, key, now.saturating_add(duration), duration, now);
        }
    }
}
