//! Claims whose lease has run out in their rows while another transaction had locked them, so that a renewal could not write
//! them. Only if renewals are not in shared memory.
//!
//! Such a renewal is answered as if it was made. So after the unlock the holder must have time for another one: it renews
//! twice or more in a lease. A row that has been locked tells so for as long as it is not written. Each session that reaps
//! notes when it has first seen such a row, or last seen it locked, and ends the claim half a lease later.

use super::busy;
use super::leases::{self, Held};
use super::token::Claim;
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::ffi::heap::{Heap, Lock};
use crate::ffi::member;
use crate::ffi::snapshot;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::monotonic;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    /// From when on a holder has time, for a task at the end of a lease.
    static SINCE: RefCell<HashMap<(Uuid, i64), i64>> = RefCell::default();
}

/// The row of a claim before the session has locked it.
#[derive(Clone, Copy)]
pub struct Unlocked {
    lease_expires_at: i64,
    /// How long the lease was, as far as the row tells.
    duration: i64,
    /// Whether a transaction has locked it since it was written.
    was_locked: bool,
}

/// Reads the row of a claim; `None` if its renewals are in shared memory.
pub fn read(task: Uuid) -> Option<Unlocked> {
    let (table, _) = member::relation(EntityType::TaskInstance.relation())?;
    let heap = Heap::open(table, Lock::Rows)?;
    let columns = Columns::of_table(EntityType::TaskInstance, table, |name| heap.find_column(name));
    let read = || {
        let columns = columns?;
        let of_claim = columns.task?.claim?;
        let found = heap.find(columns.id, task)?;
        let row = found.row();
        let read = || {
            let (start_date, lease_expires_at) = (row.i64(columns.start_date)?, row.i64(of_claim.lease_expires_at)?);
            let claim = Claim { task, version: row.i64(columns.version)?, start_date, lease: 1 };
            let renewed_at = row.i64(columns.updated_at)?.max(start_date);
            let duration = lease_expires_at.saturating_sub(renewed_at).max(0);
            Some((claim, Unlocked { lease_expires_at, duration, was_locked: heap.was_locked(&found) }))
        };
        let unlocked = read();
        found.release();
        unlocked
    };
    let unlocked = snapshot::with_newest(read);
    heap.close();
    let (claim, unlocked) = unlocked?;
    leases::are_in_rows(&claim).then_some(unlocked)
}

/// Notes that another transaction has locked the row now.
pub fn note_locked(task: Uuid, row: Unlocked) {
    note(task, row, monotonic());
}

fn note(task: Uuid, row: Unlocked, now: i64) {
    SINCE.with_borrow_mut(|all| {
        if all.len() >= busy::MOST {
            all.clear();
        }
        all.insert((task, row.lease_expires_at), now);
    });
}

/// Whether the holder of a claim, which has run out, has time for a renewal.
pub fn has_time(held: &Held, row: Unlocked) -> bool {
    let key = (held.claim.task, held.lease_expires_at);
    let since = SINCE.with_borrow(|all| all.get(&key).copied());
    if since.is_none() && !row.was_locked {
        return false;
    }
    let now = monotonic();
    if since.is_none() {
        note(held.claim.task, row, now);
    }
    let lasts = now - since.unwrap_or(now) < row.duration / 2;
    if !lasts {
        SINCE.with_borrow_mut(|all| all.remove(&key));
    }
    lasts
}
