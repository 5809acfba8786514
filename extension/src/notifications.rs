//! How waiting sessions learn of a transaction's events.
//!
//! If the library is preloaded, the transaction only marks itself, and the notifier sends the notifications (see
//! `notifier.rs`). Otherwise the transaction sends them, and its commit waits for all other commits that do.

use crate::event::{CHANNEL, Event, payload};
use crate::ffi::notify::notify;
use crate::ffi::{catalog, error, session, transaction};
use crate::isolation;
use crate::notifier::launch;
use crate::settings::{self, Notification};
use crate::signals;
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::fs;

/// The notifications that the current transaction itself sends.
pub struct Notifications(Notification);

impl Notifications {
    /// Marks the current transaction, so that its commit wakes waiting sessions. `history` is the table of its events.
    pub fn of_transaction(history: Oid, owner: Oid) -> Notifications {
        let entry = signals::entry();
        if let Some(entry) = entry {
            transaction::mark(entry);
        }
        let is_wanted = settings::notification() != Notification::Off
            && settings::serves(|| catalog::database_name(session::database()));
        if !is_wanted {
            return Notifications(isolation::notification());
        }
        if entry.is_some_and(|entry| launch::ensure_notifier(entry, history, owner)) {
            return Notifications(Notification::Off);
        }
        log_cost_once(entry.is_some());
        Notifications(isolation::notification())
    }

    /// Sends the notification of an event with the commit of the transaction.
    pub fn send(&self, event: &Event) {
        match self.0 {
            Notification::Off => {}
            // PostgreSQL sends equal notifications of a transaction once.
            Notification::Wakeup => notify(CHANNEL, ""),
            Notification::Events => notify(CHANNEL, &payload(event)),
        }
    }
}

/// Logs the cost of notifying without a notifier, once per start of the server: the first backend leaves a mark for
/// the others, a file that PostgreSQL removes when it starts.
fn log_cost_once(has_entry: bool) {
    thread_local! {
        static LOOKED: Cell<bool> = const { Cell::new(false) };
    }
    const MARK: &str = "base/pgsql_tmp/pgsql_tmp_pg_workflow";
    if LOOKED.replace(true) || fs::create_dir_all("base/pgsql_tmp").is_err() || fs::File::create_new(MARK).is_err() {
        return;
    }
    let (cause, hint) = match (signals::is_preloaded(), has_entry) {
        (false, _) => {
            ("is not in shared_preload_libraries", "Add pg_workflow to shared_preload_libraries and restart.")
        }
        (true, true) => ("has no free background worker for its notifier", "Raise max_worker_processes and restart."),
        (true, false) => (
            "has notifiers in as many databases as it can",
            "Name the databases that need one in pg_workflow.databases.",
        ),
    };
    error::log(
        &format!(
            "each transaction sends its own notifications: pg_workflow {cause}; commits that change a state wait for \
             each other"
        ),
        &format!("{hint} Or set pg_workflow.announce = off, and let readers poll."),
    );
}
