//! The role in whose name an event is recorded.

use crate::ffi::session;
use pgrx::pg_sys::Oid;
use std::cell::Cell;

thread_local! {
    static ACTOR: Cell<Option<Oid>> = const { Cell::new(None) };
}

/// Runs `work`, whose events are those of another role than the session's: the session does it only because it came by.
pub fn during<R>(actor: Oid, work: impl FnOnce() -> R) -> R {
    struct End(Option<Oid>);
    impl Drop for End {
        fn drop(&mut self) {
            ACTOR.set(self.0);
        }
    }
    let _end = End(ACTOR.replace(Some(actor)));
    work()
}

/// Returns the actor of what a role does now, and its name if it is another one.
pub fn of(role: Oid) -> (String, Option<String>) {
    match ACTOR.get() {
        Some(actor) => (session::name_of(actor), None),
        None => (session::session_user(), session::acted_as(role)),
    }
}
