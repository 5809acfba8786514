//! What a transaction has ended, and what its look at the dependencies leaves.

use crate::ffi::transaction::OfTransaction;
use crate::ffi::uuid::Uuid;
use crate::memory;
use std::cell::RefCell;

/// What a look is about. A rollback to a savepoint can have undone it: the look reads the states.
#[derive(Default)]
pub struct Subjects {
    /// Tasks that have ended, or were deleted.
    pub ended: Vec<Uuid>,
    /// Tasks that had ended and have not now, each with its run.
    pub returned: Vec<(Uuid, Uuid)>,
    /// Joins that were created, and watch no task yet.
    pub joins: Vec<Uuid>,
}

impl Subjects {
    fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.returned.is_empty() && self.joins.is_empty()
    }
}

/// What the end of the current transaction must look at.
#[derive(Default)]
pub struct Noted {
    subjects: Subjects,
    /// Whether it looks at joins of others that watch no task, too; and those that watch a task which has ended.
    pub looks_again: bool,
    pub overdue: Vec<Uuid>,
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
            tasks.for_each(|task| memory::push(&mut noted.subjects.ended, task));
        });
    }
}

/// Notes tasks, each with its run, that had ended and that the transaction has brought back.
pub fn note_returned(tasks: impl Iterator<Item = (Uuid, Uuid)>) {
    let mut tasks = tasks.peekable();
    if tasks.peek().is_some() {
        with(|noted| tasks.for_each(|task| memory::push(&mut noted.subjects.returned, task)));
    }
}

/// Notes a join that watches no task yet.
pub fn note_join(join: Uuid) {
    with(|noted| memory::push(&mut noted.subjects.joins, join));
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

/// Takes what the next look is about.
pub fn take() -> Option<Subjects> {
    NOTED.with_borrow_mut(|noted| {
        let noted = noted.known().filter(|noted| !noted.subjects.is_empty())?;
        Some(std::mem::take(&mut noted.subjects))
    })
}
