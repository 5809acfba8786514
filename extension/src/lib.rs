//! The PostgreSQL extension `pg_workflow`.
//!
//! Its SQL is hand-written in `sql/`; this library has the C functions that the SQL names. The path of a transition:
//! `transition` → one UPDATE → `guard` (is it allowed?) → `record` → `append` (history row and notification).
//! A plain UPDATE enters at `guard`. After the commit `signals` wakes the `notifier` and the `waiting` sessions.

mod actor;
mod append;
mod args;
mod call;
mod claims;
mod columns;
mod consumers;
mod counts;
mod creation;
mod dag_of;
mod deletion;
mod dependencies;
mod dependents;
mod direct;
mod drop_guard;
mod durability;
mod endings;
mod entity;
mod errors;
mod event;
mod feed;
mod ffi;
mod fields;
mod guard;
mod history;
mod hold;
mod isolation;
mod joins;
mod listening;
mod managed;
mod memory;
mod notifications;
mod notifier;
mod parked;
mod partitions;
mod places;
mod position;
mod purge;
mod queues;
mod raise;
mod ready;
mod record;
mod requests;
mod restore;
mod rights;
mod rules;
mod server_info;
mod settings;
mod signals;
mod tenant;
mod totals;
mod transition;
mod transition_many;
mod unrecorded;
mod waiting;

::pgrx::pg_module_magic!();

/// Called by PostgreSQL when it loads the library: into the postmaster if it is preloaded, else into a backend.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    ffi::ddl::register(dependents::check);
    if ffi::shared::is_preloading() {
        ffi::shared::request();
        ffi::area::request();
        ffi::leases::request(settings::max_claims);
        ffi::places::request();
        ffi::waiters::request();
        ffi::prepared::request();
        ffi::transaction::register(at_end);
        ffi::utility::register(ffi::utility::Callbacks {
            before_statement: notifier::launch::before_statement,
            after_statement: notifier::launch::after_statement,
            after_channels: listening::after_statement,
            after_commit_prepared,
        });
    }
    ffi::transaction::register_before_end(dependencies::before_end);
}

/// Called at the end of each marked transaction, and of each that is prepared. Nothing here may fail.
fn at_end(mark: usize, end: ffi::transaction::End) {
    match end {
        ffi::transaction::End::Committed => {
            claims::leases::commit();
            places::report();
            dependencies::report();
        }
        ffi::transaction::End::Prepared => ffi::prepared::end(!places::has_news() && !dependencies::has_news()),
        _ => (),
    }
    signals::count(mark, end);
}

/// Called after COMMIT PREPARED. PREPARE has ended the transaction's mark, and with it the list of what it has added.
fn after_commit_prepared(has_no_news: bool) {
    if !has_no_news {
        places::forget();
        dependencies::note_commit_of_prepared();
    }
    signals::count_prepared();
}
