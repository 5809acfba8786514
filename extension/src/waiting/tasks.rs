//! The procedure that waits for tasks. A commit wakes one session for each task that it adds.

use super::procedures::timeout;
use super::{LONGEST, LONGEST_UNCOUNTED, counted, wait};
use crate::claims::busy::in_vain;
use crate::claims::reap;
use crate::dependencies;
use crate::entity::EntityType;
use crate::ffi::export::export_function;
use crate::ffi::plan::{Plan, Rows};
use crate::ffi::procedure::Call;
use crate::ffi::shared::Signals;
use crate::ffi::uuid::Uuid;
use crate::ffi::values::{monotonic, text_array, text_datum};
use crate::ffi::{latch, session, subtransaction, transaction, waiters};
use crate::{errors, signals, tenant};
use pgrx::pg_sys::{self, Datum, FunctionCallInfo};
use std::sync::Once;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::LocalKey;
use std::time::{Duration, Instant};

export_function!(wait_for_tasks_of_queues, pg_finfo_wait_for_tasks_of_queues, wait_for_tasks);

/// How often a database is searched for claims that have run out.
const REAP_INTERVAL: i64 = 1_000_000;
/// How long a session waits whose last claim has found only tasks that other transactions change: no commit may tell. If the
/// claim took long, it waits for longer, whatever commits, so that such claims take no more than a tenth of the time.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_SHARE: u32 = 10;

thread_local! {
    static SECONDS_TO_TASK: Plan =
        Plan::new("SELECT workflow.seconds_to_task($1)".to_owned(), &[pg_sys::TEXTARRAYOID]);
    static REAP: Plan = Plan::new("SELECT FROM workflow.reap_claims()".to_owned(), &[]);
    static LOOK: Plan = Plan::new("SELECT workflow.look_at_joins()".to_owned(), &[]);
}

/// Says that the session waits no more, also after an error.
struct Waiting;

impl Waiting {
    fn begin() -> Waiting {
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| latch::at_exit(|_| waiters::end()));
        Waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        waiters::end();
    }
}

/// Waits until a task can be claimed, or the time has passed; returns whether one can. The arguments are the queues, and
/// how long to wait.
fn wait_for_tasks(call: FunctionCallInfo) -> Datum {
    // SAFETY: PostgreSQL calls the procedure, with a text[] and an interval.
    let Some(call) = (unsafe { Call::begin(call) }) else { errors::in_transaction_block("wait for tasks") };
    // SAFETY: as above.
    let queues = unsafe { call.texts(0) };
    // Once: it lives as long as the call.
    let queues = queues.map(|queues| text_array(queues.iter().map(|name| text_datum(name)).collect()));
    let deadline = Instant::now().checked_add(timeout(&call));
    // What it has done for others can have survived statement_timeout.
    let left = || match deadline {
        _ if transaction::has_timed_out() => Duration::ZERO,
        Some(deadline) => deadline.saturating_duration_since(Instant::now()),
        None => Duration::MAX,
    };
    call.commit();
    let _waiting = Waiting::begin();
    let mut pause = in_vain().map(|took| took * PAUSE_SHARE);
    if pause.take_if(|pause| *pause <= PAUSE).is_some() {
        let signals = signals::own();
        wait(signals, counted(signals), left().min(PAUSE));
    }
    loop {
        let signals = signals::own();
        if is_turn_to_reap(signals) {
            do_for_others(&call, &REAP, "end claims that have run out");
        }
        let next_look = dependencies::is_turn_to_look();
        if next_look.is_some() {
            do_for_others(&call, &LOOK, "look at dependencies");
        }
        let seconds = |rows: Rows| rows.get(0, 1).map(|value| f64::from_bits(value.value() as u64));
        let seconds = call.in_snapshot(|| SECONDS_TO_TASK.with(|plan| plan.run(&[queues], seconds)));
        call.commit();
        if let Some(pause) = pause.take() {
            // New tasks end the pause.
            wait_to_be_woken(signals, left().min(pause));
            continue;
        }
        if seconds == Some(0.0) || left().is_zero() {
            return call.finish(seconds == Some(0.0));
        }
        // The next task may be due before any commit.
        let due = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(Duration::MAX);
        wait_to_be_woken(signals, left().min(due).min(next_look.unwrap_or(Duration::MAX)));
    }
}

/// Does what all sessions need. If it fails, also at its commit, a warning tells, and the session waits on.
fn do_for_others(call: &Call, statement: &'static LocalKey<Plan>, action: &str) {
    // What is deferred is refused where the reaper survives it.
    call.in_snapshot(reap::check_constraints_at_once);
    let work = || call.in_snapshot(|| statement.with(|plan| plan.run(&[], |_| ())));
    let result = subtransaction::attempt(work);
    if let Err(failure) = result.and_then(|()| call.try_commit()) {
        errors::failed_for_others(action, &failure);
        call.commit();
    }
}

/// Waits until a commit wakes the session, or until it is time to ask again.
fn wait_to_be_woken(signals: Option<&'static Signals>, limit: Duration) {
    let can_be_woken = signals.is_some() && waiters::can_be_woken();
    // Up to a quarter of a second more: sessions that begin together do not look together for long.
    let spread = Duration::from_millis(Uuid::random_bits(8) as u64);
    let longest = if can_be_woken { LONGEST + spread } else { LONGEST_UNCOUNTED };
    let deadline = Instant::now() + limit.min(longest);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || waiters::is_woken() {
            return;
        }
        latch::wait(left);
        pgrx::check_for_interrupts!();
        if !can_be_woken {
            // A notification has set the latch.
            return;
        }
    }
}

/// Whether this session is the one that looks for claims that have run out: one at a time of those that see all tasks.
fn is_turn_to_reap(signals: Option<&'static Signals>) -> bool {
    if transaction::is_read_only() {
        return false;
    }
    thread_local! {
        /// Without an entry in shared memory, or if row security hides tasks from it, each session looks for itself.
        static NEXT: AtomicI64 = const { AtomicI64::new(0) };
    }
    let is_turn = |turn: &AtomicI64| {
        let (now, next) = (monotonic(), turn.load(Ordering::Relaxed));
        next <= now && turn.compare_exchange(next, now + REAP_INTERVAL, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    let shared = signals.filter(|_| !tenant::is_restricted(session::user(), EntityType::TaskInstance.relation()));
    shared.map_or_else(|| NEXT.with(is_turn), |signals| is_turn(&signals.next_reap))
}
