//! How waiting sessions learn of a transaction's events.
//!
//! If the library is preloaded, the transaction only marks itself, and the notifier sends the notifications (see
//! `notifier.rs`). Without it, or where the notifier cannot run (see `notifier/handover.rs`), the transaction sends them,
//! and its commit waits for all other commits that do.

use crate::event::{CHANNEL, Event, payload};
use crate::ffi::notify::notify;
use crate::ffi::shared::{self, Signals};
use crate::ffi::{area, catalog, error, session, transaction};
use crate::isolation;
use crate::notifier::{handover, launch};
use crate::settings::{self, Notification};
use crate::signals;
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::fs;
use std::sync::atomic::Ordering;

/// Who sends the notifications of the current transaction.
pub enum Notifications {
    /// The notifier of this database.
    Notifier(&'static Signals),
    /// The transaction itself.
    Itself(Notification),
}

impl Notifications {
    /// Marks the current transaction, so that its commit wakes waiting sessions. `history` is the table of its events.
    pub fn of_transaction(history: Oid, owner: Oid) -> Notifications {
        let Some(all) = shared::signals() else {
            log_cost_once(
                "is not in shared_preload_libraries",
                "Add pg_workflow to shared_preload_libraries and restart.",
            );
            return Notifications::Itself(isolation::notification());
        };
        let entry = signals::entry();
        let id = transaction::number();
        entry.into_iter().for_each(transaction::mark);
        let notifies = area::registered(id).unwrap_or_else(|| {
            match entry {
                Some(entry) => {
                    // Before it looks for listeners: a session that begins to listen sees one of them.
                    handover::note_writer(entry, history, id);
                    launch::ensure_notifier(entry, history, Some(owner));
                }
                None => log_cost_once(
                    "has notifiers in as many databases as it can",
                    "Name the databases that need one in pg_workflow.databases.",
                ),
            }
            handover::register(entry, id)
        });
        match entry.filter(|_| !notifies) {
            Some(entry) => Notifications::Notifier(&all[entry]),
            None => Notifications::Itself(isolation::notification()),
        }
    }

    /// Sends the notification of an event with the commit of the transaction, or leaves it to the notifier.
    pub fn send(&self, event: &Event) {
        match self {
            Notifications::Notifier(signals) => drop(signals.last_id.fetch_max(event.id, Ordering::AcqRel)),
            Notifications::Itself(Notification::Off) => {}
            // PostgreSQL sends equal notifications of a transaction once.
            Notifications::Itself(Notification::Wakeup) => notify(CHANNEL, ""),
            Notifications::Itself(Notification::Events) => notify(CHANNEL, &payload(event)),
        }
    }
}

/// Logs the cost of notifying without a notifier, once per start of the server: the first backend leaves a mark for
/// the others, a file that PostgreSQL removes when it starts.
fn log_cost_once(cause: &str, hint: &str) {
    thread_local! {
        static LOOKED: Cell<bool> = const { Cell::new(false) };
    }
    const MARK: &str = "base/pgsql_tmp/pgsql_tmp_pg_workflow";
    let is_wanted = settings::notification() != Notification::Off
        && settings::serves(|| catalog::database_name(session::database()));
    if !is_wanted
        || LOOKED.replace(true)
        || fs::create_dir_all("base/pgsql_tmp").is_err()
        || fs::File::create_new(MARK).is_err()
    {
        return;
    }
    error::log(
        &format!(
            "each transaction sends its own notifications: pg_workflow {cause}; commits that change a state wait for \
             each other"
        ),
        &format!("{hint} Or set pg_workflow.announce = off, and let readers poll."),
    );
}
