//! Looking again: at joins that watch no task, because other transactions were about to end the parents.
//!
//! A commit that leaves such a row says so in shared memory. The next claim looks, and so does the next transaction that
//! ends a task. Where the library is not preloaded, each of them asks the index, which costs as much as a look-up of a row.

use super::{exist, look};
use crate::endings::{self, Noted};
use crate::entity::EntityType;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::shared::Signals;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::monotonic;
use crate::ffi::{session, shared, transaction, waiters};
use crate::{memory, rights, signals};
use std::sync::atomic::{AtomicI64, Ordering};

/// How long a look that has left something is not repeated, unless a commit changes what it would find.
const PAUSE: i64 = 10_000;
/// How often the joins are searched that watch a task which has ended.
const SWEEP_INTERVAL: i64 = 10_000_000;

fn own() -> Option<&'static Signals> {
    Some(&shared::signals()?[signals::find()?])
}

/// Whether there may be joins that watch no task. After a start it is not known.
fn is_pending(signals: &Signals) -> bool {
    signals.again_left.load(Ordering::SeqCst) >= signals.again_seen.load(Ordering::SeqCst)
}

/// Whether there may be joins that watch no task, as far as shared memory tells.
pub fn may_be_left() -> bool {
    own().is_some_and(is_pending)
}

/// Notes that the transaction leaves a join that watches no task. `is_new`: it watched a task before.
pub fn note(is_new: bool) {
    endings::with(|noted| {
        noted.leaves_new |= is_new;
        noted.leaves_old |= !is_new;
    });
}

/// Whether it is time to look at the joins that watch no task. Then the caller looks.
pub fn begin() -> bool {
    let leaves = endings::read(|noted| noted.leaves_new).unwrap_or(false);
    let Some(signals) = own() else { return true };
    let count = signals.again_left.load(Ordering::SeqCst);
    let is_due = is_pending(signals) && signals.again_pause.load(Ordering::SeqCst) <= monotonic();
    if is_due && transaction::assigned_id().is_some() {
        endings::with(|noted| _ = noted.looked.get_or_insert(count));
    }
    is_due || leaves
}

/// Looks at the joins that watch no task, if it is time to. Before a claim, so that it finds what can run.
pub fn look_again() {
    let count = own().map(|signals| signals.again_left.load(Ordering::SeqCst));
    if !begin() || !exist() {
        return;
    }
    let role = session::user();
    let has_found = transaction::with_latest_snapshots(|| {
        rights::as_owner_of(EntityType::TaskInstance.relation(), || look::look(&[], Vec::new(), true, role))
    });
    match (own(), count) {
        // The look has written nothing that a rollback could undo.
        (Some(signals), Some(count)) if !has_found => _ = signals.again_seen.fetch_max(count + 1, Ordering::SeqCst),
        (Some(_), count) => endings::with(|noted| noted.looked = noted.looked.or(count)),
        _ => {}
    }
}

/// Reports what the transaction has left that has just committed. Nothing here may fail.
pub fn report() {
    let (Some(Noted { looked, leaves_new, leaves_old, has_ended, .. }), Some(signals)) = (endings::take_all(), own())
    else {
        return;
    };
    if leaves_new {
        signals.again_left.fetch_add(1, Ordering::SeqCst);
    } else if leaves_old {
        signals.again_pause.store(monotonic() + PAUSE, Ordering::SeqCst);
    } else if let Some(count) = looked {
        signals.again_seen.fetch_max(count + 1, Ordering::SeqCst);
    }
    // Either this transaction was in the way of another one's look, or another one in the way of its.
    if leaves_new || (has_ended && is_pending(signals)) {
        signals.again_pause.store(0, Ordering::SeqCst);
        waiters::wake_all();
    }
}

/// Notes that a prepared transaction has committed: what it has left is not known.
pub fn note_commit_of_prepared() {
    own().into_iter().for_each(|signals| _ = signals.again_left.fetch_add(1, Ordering::SeqCst));
}

/// Looks at all joins that watch no task or a task that has ended. Returns how many those are. For reap_claims().
#[pgrx::pg_extern(sql = false)]
fn look_at_joins() -> i64 {
    rights::refuse_restricted_operation();
    // A look leaves the transaction without its snapshot.
    if transaction::has_fixed_snapshot() {
        return 0;
    }
    look_again();
    let now = monotonic();
    let is_turn = |time: &AtomicI64| {
        let next = time.load(Ordering::Relaxed);
        next <= now && time.compare_exchange(next, now + SWEEP_INTERVAL, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    thread_local! {
        static NEXT: AtomicI64 = const { AtomicI64::new(0) };
    }
    let is_turn = signals::own().map_or_else(|| NEXT.with(is_turn), |signals| is_turn(&signals.next_sweep_of_waits));
    if !is_turn || !exist() {
        return 0;
    }
    let role = session::user();
    transaction::with_latest_snapshots(|| {
        rights::as_owner_of(EntityType::TaskInstance.relation(), || {
            let joins = overdue();
            let count = joins.len();
            if count > 0 {
                look::look(&[], joins, false, role);
            }
            count as i64
        })
    })
}

/// Returns the joins that watch a task which has ended, or was deleted.
fn overdue() -> Vec<Uuid> {
    thread_local! {
        static FIND: Plan = Plan::new(
            "SELECT DISTINCT w.join_id FROM workflow.overdue_waits() AS w".to_owned(),
            &[],
        );
    }
    let ids = |rows: Rows| memory::collect((0..rows.len()).filter_map(|row| rows.uuid(row, 1)));
    FIND.with(|plan| plan.run(&[], ids))
}
