//! Looking again: at joins that watch no task, because other transactions were about to end the parents.
//!
//! A commit that leaves such a row says so in shared memory. The next claim looks, and so does the next transaction that
//! ends a task, whosever they are: before its commit, so that it holds locks for a short time only. What it decides is
//! recorded for the owner of the tables. Where the library is not preloaded, each of them asks the index, which costs as
//! much as a look-up of a row.

use super::look::{self, Question, Reach};
use super::{exist, look_at_ended};
use crate::endings::{self, Noted};
use crate::entity::EntityType;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::shared::Signals;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::monotonic;
use crate::ffi::{member, session, shared, snapshot, transaction, waiters};
use crate::joins::waits::Waits;
use crate::{actor, memory, rights, signals};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// How long a look that has left something is not repeated, unless a commit changes what it would find. In microseconds, as
/// all times here.
const PAUSE: i64 = 10_000;
/// A session does not look at a join again for so many times as long as it took, if that was longer than this: those who look
/// do it for others.
const LONG: i64 = 1_000;
const REST_SHARE: i64 = 10;
/// How long the session that looks while it waits for tasks pauses: from the first to the last of several looks in vain.
const LOOK_PAUSES: RangeInclusive<i64> = 20_000..=1_000_000;
/// How often the joins are searched that watch a task which has ended.
const SWEEP_INTERVAL: i64 = 10_000_000;

fn own() -> Option<&'static Signals> {
    Some(&shared::signals()?[signals::find()?])
}

/// Whether there may be joins that watch no task. After a start it is not known.
fn is_pending(signals: &Signals) -> bool {
    signals.again_left.load(Ordering::SeqCst) >= signals.again_seen.load(Ordering::SeqCst)
}

/// Whether this session is the one that looks at the joins which watch no task, among those that wait for tasks. Returns
/// after which time it should look again: no commit tells that a transaction in the way has rolled back. The time grows
/// while nothing changes.
pub fn is_turn_to_look() -> Option<Duration> {
    let signals = own().filter(|signals| is_pending(signals))?;
    let (now, next) = (monotonic(), signals.next_look.load(Ordering::SeqCst));
    let pause = signals.look_pause.load(Ordering::SeqCst).clamp(*LOOK_PAUSES.start(), *LOOK_PAUSES.end());
    let take = || signals.next_look.compare_exchange(next, now + pause, Ordering::SeqCst, Ordering::SeqCst);
    (next <= now && take().is_ok()).then(|| {
        signals.look_pause.store(pause * 2, Ordering::SeqCst);
        Duration::from_micros(pause.unsigned_abs())
    })
}

/// Lets the next session look at once, and then often: something has changed.
fn look_soon(signals: &Signals) {
    for time in [&signals.again_pause, &signals.look_pause, &signals.next_look] {
        time.store(0, Ordering::SeqCst);
    }
    waiters::wake_all();
}

/// Notes that the transaction leaves a join that watches no task. `is_new`: it watched a task before.
pub fn note(is_new: bool) {
    endings::with(|noted| {
        noted.leaves_new |= is_new;
        noted.leaves_old |= !is_new;
    });
}

/// Whether it is time to look at the joins that watch no task.
fn is_due() -> bool {
    let is_over = |time: &AtomicI64| time.load(Ordering::SeqCst) <= monotonic();
    own().is_none_or(|signals| is_pending(signals) && is_over(&signals.again_pause))
}

/// Looks at the joins that watch no task, if it is time to, so that the claim finds what can run. It decides where all
/// parents have ended, and holds none of the others: the transaction of the claim can be long. In a block it can be longer
/// still, so that nothing is decided before its commit.
pub fn look_before_claim() {
    let joins = ask_to_look();
    if joins.is_empty() || transaction::is_block() {
        return;
    }
    look_at(&joins, Reach::Claim);
}

/// Lets the commit look, if it is time to and there is anything to look at. Returns the joins that watch no task.
fn ask_to_look() -> Vec<Uuid> {
    let count = own().map(|signals| signals.again_left.load(Ordering::SeqCst));
    if !is_due() || !exist() {
        return Vec::new();
    }
    let Left { joins, has_resting } = snapshot::with_newest(left_by_others);
    match (own(), count) {
        _ if !joins.is_empty() => endings::with(|noted| noted.looks_again = true),
        (Some(signals), Some(count)) if !has_resting => _ = signals.again_seen.fetch_max(count + 1, Ordering::SeqCst),
        _ => {}
    }
    joins
}

/// Looks before the commit, if this was asked for, or if the transaction has ended a task and it is time to.
pub fn look_before_commit() {
    let asked = |noted: &Noted| (noted.looks_again, noted.has_ended, noted.overdue.len());
    let (is_asked, has_ended, overdue) = endings::read(asked).unwrap_or_default();
    if !is_asked && overdue == 0 && !(has_ended && is_due()) {
        return;
    }
    signals::entry().into_iter().for_each(transaction::mark);
    let count = own().map(|signals| signals.again_left.load(Ordering::SeqCst));
    endings::with(|noted| noted.looked = count);
    let mut joins = endings::with(|noted| std::mem::take(&mut noted.overdue));
    let left = transaction::with_latest_snapshots(left_by_others);
    if left.has_resting {
        note(false);
    }
    left.joins.into_iter().for_each(|join| memory::push(&mut joins, join));
    if !joins.is_empty() {
        look_at(&joins, Reach::Commit);
    }
}

/// Looks at joins of others, and at what ends by that, in the name of the owner of the tables.
fn look_at(joins: &[Uuid], reach: Reach) {
    let Some((_, role)) = member::relation(EntityType::TaskInstance.relation()) else { return };
    let question = Question { ended: &[], joins: &[], left: joins, role, reach };
    actor::during(role, || {
        let has_changed = transaction::with_latest_snapshots(|| session::as_owner(role, || look::look(question)));
        if reach == Reach::Commit {
            if has_changed {
                transaction::fire_deferred_triggers();
            }
            look_at_ended(role, reach);
        }
    });
}

/// Joins that watch no task.
struct Left {
    joins: Vec<Uuid>,
    /// Whether there are some at which this session does not look now.
    has_resting: bool,
}

/// Returns the joins that watch no task, but for those that this transaction leaves, by the active snapshot.
fn left_by_others() -> Left {
    let own = transaction::assigned_id();
    let waits = Waits::open();
    let mut matches = waits.by_watched();
    let mut joins = Vec::new();
    waits.each_again(&mut matches, |wait| {
        if wait.left_by() != own {
            memory::push(&mut joins, wait.join);
        }
    });
    matches.close();
    waits.close();
    joins.sort_unstable();
    joins.dedup();
    let found = joins.len();
    joins.retain(|join| !rests(*join));
    Left { has_resting: joins.len() < found, joins }
}

thread_local! {
    /// Until when this session does not look at joins which others have left.
    static RESTING: RefCell<HashMap<Uuid, i64>> = RefCell::default();
}

/// Lets the session's next look at a join wait if this one took long.
pub fn rest_after(join: Uuid, began: i64) {
    let now = monotonic();
    let took = now - began;
    if took > LONG {
        RESTING.with_borrow_mut(|all| {
            all.retain(|_, until| now < *until);
            all.insert(join, now + took * REST_SHARE);
        });
    }
}

/// Whether a look at a join has lately taken long. Then the transaction leaves it.
fn rests(join: Uuid) -> bool {
    RESTING.with_borrow(|all| all.get(&join).is_some_and(|until| monotonic() < *until))
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
        look_soon(signals);
    }
}

/// Whether the transaction, which is being prepared, has ended tasks, or leaves joins that watch none. Nothing here may fail.
pub fn has_news() -> bool {
    endings::read(|noted| noted.has_ended || noted.leaves_new || noted.leaves_old).unwrap_or(false)
}

/// Notes that a prepared transaction with such news has committed: it can have been in the way of another one's look, too.
pub fn note_commit_of_prepared() {
    let Some(signals) = own() else { return };
    signals.again_left.fetch_add(1, Ordering::SeqCst);
    look_soon(signals);
}

/// Lets the commit look at joins. Returns how many there are that watch a task which has ended.
#[pgrx::pg_extern(sql = false)]
fn look_at_joins() -> i64 {
    rights::refuse_restricted_operation();
    look_for_all()
}

/// Lets the commit look at all joins that watch no task, or one that has ended. Returns how many of the latter there are; at
/// most every 10 s it searches them. For reap_claims().
pub fn look_for_all() -> i64 {
    // Sessions wait for tasks on a standby, too.
    if transaction::is_read_only() {
        return 0;
    }
    ask_to_look();
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
    let overdue = rights::as_owner_of(EntityType::TaskInstance.relation(), overdue);
    let count = overdue.len();
    // Rows that a restore has loaded are in no count of shared memory.
    let has_left = !snapshot::with_newest(left_by_others).joins.is_empty();
    if count > 0 || has_left {
        endings::with(|noted| {
            noted.overdue = overdue;
            noted.looks_again |= has_left;
        });
    }
    count as i64
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
