//! What a transaction has ended, and what its look at the dependencies leaves.

use crate::ffi::transaction::OfTransaction;
use crate::ffi::uuid::Uuid;
use crate::memory;
use std::cell::RefCell;

/// What the end of the current transaction must look at.
#[derive(Default)]
pub struct Noted {
    /// Tasks that have ended, or were deleted. A rollback to a savepoint can have undone that: the look reads their states.
    ended: Vec<Uuid>,
    /// Joins that were created, and watch no task yet.
    joins: Vec<Uuid>,
    /// The commit reports the rest: whether it has ended any task; how many commits had left joins that watch no task when it
    /// looked at these; and whether it leaves any, new ones or such as others had left.
    pub has_ended: bool,
    pub looked: Option<u64>,
    pub leaves_new: bool,
    pub leaves_old: bool,
}

thread_local! {
    static NOTED: RefCell<OfTransaction<Noted>> = RefCell::default();
}

/// Notes tasks that the transaction has ended or deleted.
pub fn note(tasks: impl Iterator<Item = Uuid>) {
    let mut tasks = tasks.peekable();
    if tasks.peek().is_some() {
        with(|noted| {
            noted.has_ended = true;
            tasks.for_each(|task| memory::push(&mut noted.ended, task));
        });
    }
}

/// Notes a join that watches no task yet.
pub fn note_join(join: Uuid) {
    with(|noted| memory::push(&mut noted.joins, join));
}

/// Changes what is noted.
pub fn with<R>(change: impl FnOnce(&mut Noted) -> R) -> R {
    NOTED.with_borrow_mut(|noted| change(noted.get()))
}

/// Reads what is noted, if anything is.
pub fn read<R>(read: impl FnOnce(&Noted) -> R) -> Option<R> {
    NOTED.with_borrow_mut(|noted| noted.known().map(|noted| read(noted)))
}

/// Takes all that the transaction has noted, which has ended.
pub fn take_all() -> Option<Noted> {
    NOTED.with_borrow_mut(|noted| noted.known().map(std::mem::take))
}

/// Takes what is noted: the tasks and the joins.
pub fn take() -> Option<(Vec<Uuid>, Vec<Uuid>)> {
    NOTED.with_borrow_mut(|noted| {
        let noted = noted.known().filter(|noted| !noted.ended.is_empty() || !noted.joins.is_empty())?;
        Some((std::mem::take(&mut noted.ended), std::mem::take(&mut noted.joins)))
    })
}
