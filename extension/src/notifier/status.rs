//! The state of the database's notifier, for the view `workflow.notifier`.

use crate::ffi::shared::{self, Progress, Signals};
use crate::ffi::values::clock;
use crate::ffi::{catalog, session};
use crate::signals;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::name;
use std::sync::atomic::Ordering;

/// Returns the row of this database; none if it has no entry in shared memory. Other databases are not its business.
#[pgrx::pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn notifiers() -> TableIterator<
    'static,
    (
        name!(database, Option<String>),
        name!(pid, Option<i32>),
        name!(started_at, Option<TimestampWithTimeZone>),
        name!(is_listened, bool),
        name!(pending, i64),
        name!(lag_seconds, f64),
        name!(last_event_id, Option<i64>),
        name!(events, i64),
        name!(batches, i64),
        name!(announced_at, Option<TimestampWithTimeZone>),
        name!(errors, i64),
        name!(last_error, Option<String>),
        name!(last_error_at, Option<TimestampWithTimeZone>),
    ),
> {
    let own = signals::find().and_then(|entry| Some((&shared::signals()?[entry], shared::progress()[entry])));
    TableIterator::new(own.into_iter().map(|(signals, progress)| {
        let pending = pending(signals, &progress);
        (
            catalog::database_name(session::database()),
            (progress.pid != 0).then_some(progress.pid),
            time(progress.started_at),
            signals::is_listened(signals),
            pending,
            if pending == 0 { 0.0 } else { (clock() - progress.caught_up_at).max(0) as f64 / 1e6 },
            (progress.last_event_id != 0).then_some(progress.last_event_id),
            progress.events,
            progress.batches,
            time(progress.notified_at),
            progress.errors,
            (progress.errors != 0).then(|| progress.last_error.get().to_owned()),
            time(progress.last_error_at),
        )
    }))
}

/// Counts the committed transactions whose notifications are not sent yet; 0 if no session listens.
fn pending(signals: &Signals, progress: &Progress) -> i64 {
    if !signals::is_listened(signals) {
        return 0;
    }
    signals.owed.load(Ordering::Acquire).saturating_sub(progress.commits).cast_signed()
}

fn time(microseconds: i64) -> Option<TimestampWithTimeZone> {
    (microseconds != 0).then(|| TimestampWithTimeZone::try_from(microseconds).ok()).flatten()
}
