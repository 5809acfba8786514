//! The PostgreSQL extension `pg_workflow`.
//!
//! Its SQL face is hand-written in `sql/`; here are the functions that it names. A move takes this way:
//! `transition` → one UPDATE → `guard` (may it?) → `record` (what happened) → `announce` (who wants to know).
//! A plain UPDATE enters at `guard`. After the commit `signals` wakes the `notifier` and whoever is `waiting`.

mod announce;
mod args;
mod columns;
mod creation;
mod drop_guard;
mod entity;
mod errors;
mod ffi;
mod guard;
mod history;
mod notifier;
mod record;
mod request;
mod rules;
mod settings;
mod signals;
mod status;
mod tenant;
mod transition;
mod transition_many;
mod waiting;

::pgrx::pg_module_magic!();

/// Called by PostgreSQL when it loads the library: into the postmaster, where it is preloaded, or into a backend.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    if ffi::shared::is_preloading() {
        signals::prepare();
    }
}
