//! Dependencies between the tasks of a run: who waits for whom, and what becomes of them.
//!
//! Tasks that depend on the same ones share a row of `joins`. While it is undecided, a row of `waits` watches one of its
//! parents that has not ended. The transaction that ends this parent looks for another one, just before it commits
//! (`look.rs`), and if there is none, decides. It waits for no lock: if another transaction is in the way, it leaves a row
//! of `waits` that watches nobody, and the next claim, or the next end of a task, looks again. `tests/model/joins.rs` tries
//! every order of the steps.

mod again;
mod children;
mod creation;
mod graph;
mod joins;
mod look;
mod run_end;
mod tasks;
mod waits;

pub use again::{look_again, may_be_left, note_commit_of_prepared, report};
pub use creation::{Edges, add_leaves};
pub use run_end::start;
pub use waits::{is_waiting, waits};

use crate::entity::EntityType;
use crate::ffi::transaction::{self, OfTransaction};
use crate::ffi::uuid::Uuid;
use crate::ffi::{member, session};
use crate::{memory, rights};
use std::cell::RefCell;

/// What the end of the current transaction must look at.
#[derive(Default)]
struct Noted {
    /// Tasks that have ended, or were deleted. A rollback to a savepoint can have undone that: the look reads their states.
    ended: Vec<Uuid>,
    /// Joins that were created, and watch nobody yet.
    joins: Vec<Uuid>,
    /// The commit reports the rest: whether it has ended any task; how many commits had left joins that watch nobody when it
    /// looked at these; and whether it leaves any, new ones or such as others had left.
    has_ended: bool,
    looked: Option<u64>,
    leaves_new: bool,
    leaves_old: bool,
}

thread_local! {
    static NOTED: RefCell<OfTransaction<Noted>> = RefCell::default();
}

/// Notes tasks that the transaction has ended or deleted.
pub fn note_ended(tasks: impl Iterator<Item = Uuid>) {
    let mut tasks = tasks.peekable();
    if tasks.peek().is_some() {
        NOTED.with_borrow_mut(|noted| {
            let noted = noted.get();
            noted.has_ended = true;
            tasks.for_each(|task| memory::push(&mut noted.ended, task));
        });
    }
}

/// Notes a join that watches nobody yet.
fn note_join(join: Uuid) {
    NOTED.with_borrow_mut(|noted| memory::push(&mut noted.get().joins, join));
}

/// Takes what is noted: the tasks and the joins.
fn take_noted() -> Option<(Vec<Uuid>, Vec<Uuid>)> {
    NOTED.with_borrow_mut(|noted| {
        let noted = noted.known().filter(|noted| !noted.ended.is_empty() || !noted.joins.is_empty())?;
        Some((std::mem::take(&mut noted.ended), std::mem::take(&mut noted.joins)))
    })
}

/// Looks at what the transaction has ended, until nothing more ends. Called before it ends itself.
pub fn before_end() {
    let role = session::user();
    while let Some((mut ended, joins)) = take_noted() {
        if !exist() {
            return;
        }
        ended.sort_unstable();
        let has_joins = !joins.is_empty();
        let again = again::begin();
        let has_changed = transaction::with_latest_snapshots(|| {
            rights::as_owner_of(EntityType::TaskInstance.relation(), || look::look(&ended, joins, again, role))
        });
        if has_joins {
            NOTED.with_borrow_mut(|noted| {
                let noted = noted.get();
                noted.leaves_new |= noted.leaves_old;
            });
        }
        if has_changed {
            transaction::fire_deferred_triggers();
        }
    }
}

/// Whether the catalog has the tables. That of 0.2.0 has not.
fn exist() -> bool {
    member::relation(waits::TABLE).is_some()
}
