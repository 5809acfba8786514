//! Counts the sessions that listen, so that the notifier works only for them. PostgreSQL does not show who listens.
//!
//! The count is never too low: a session counts itself before its LISTEN commits, and leaves the count when it has
//! committed an UNLISTEN, when the transaction of its first LISTEN is rolled back, and when it ends.

use crate::event::CHANNEL;
use crate::ffi::levels::{self, LevelEnd};
use crate::ffi::utility::Channels;
use crate::ffi::{latch, session, shared};
use crate::notifier::{handover, launch};
use std::cell::RefCell;
use std::sync::Once;
use std::sync::atomic::Ordering;

/// What this session has executed.
struct Session {
    is_counted: bool,
    /// Whether it listened before the current transaction.
    listened: bool,
    /// The levels of the transaction that have executed LISTEN or UNLISTEN, in ascending order, and whether the last of
    /// these statements was a LISTEN. It counts if the level commits.
    changes: Vec<(i32, bool)>,
}

thread_local! {
    static SESSION: RefCell<Session> =
        const { RefCell::new(Session { is_counted: false, listened: false, changes: Vec::new() }) };
}

/// Counts the session, or notes that it will leave the count, after LISTEN, UNLISTEN or DISCARD ALL.
pub fn after_statement(channels: &Channels) {
    match channels {
        Channels::Listen(channel) if channel == CHANNEL => {
            join();
            note(true);
            launch::after_listen();
        }
        Channels::Unlisten(channel) if channel == CHANNEL => note(false),
        Channels::UnlistenAll => note(false),
        Channels::Listen(_) | Channels::Unlisten(_) => {}
    }
}

/// Counts this session, if it is not counted yet.
fn join() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        levels::register(at_level_end);
        latch::at_exit(|_| leave());
    });
    SESSION.with_borrow_mut(|session| {
        if !session.is_counted {
            handover::add_listener();
            session.is_counted = true;
        }
    });
}

/// Notes the last statement of the current level. A session that is not counted has nothing to leave.
fn note(listens: bool) {
    SESSION.with_borrow_mut(|session| {
        if session.is_counted {
            session.set(levels::current(), listens);
        }
    });
}

/// Takes this session out of the count.
fn leave() {
    SESSION.with_borrow_mut(|session| {
        (session.listened, session.changes) = (false, Vec::new());
        session.settle();
    });
}

fn at_level_end(level: i32, end: LevelEnd) {
    SESSION.with_borrow_mut(|session| {
        let change = session.changes.pop_if(|change| change.0 >= level);
        match (end, change) {
            (LevelEnd::Merged, Some((_, listens))) => session.set(level - 1, listens),
            (LevelEnd::Committed, Some((_, listens))) => session.listened = listens,
            _ => {}
        }
        if matches!(end, LevelEnd::Committed | LevelEnd::NotCommitted) {
            session.changes.clear();
            session.settle();
        }
    });
}

impl Session {
    fn set(&mut self, level: i32, listens: bool) {
        self.changes.pop_if(|change| change.0 >= level);
        self.changes.push((level, listens));
    }

    /// Leaves the count if the session does not listen between transactions.
    fn settle(&mut self) {
        if self.is_counted && !self.listened {
            self.is_counted = false;
            if let Some(listeners) = shared::listeners() {
                listeners.of(session::database().to_u32()).fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}
