//! Dependencies between the tasks of a run: who waits for whom, and what becomes of them.
//!
//! Tasks that depend on the same ones share a row of `joins`. While it is undecided, a row of `waits` watches one of its
//! parents that has not ended. The transaction that ends this parent looks for another one, just before it commits
//! (`look.rs`), and if there is none, decides. It waits for no lock: if another transaction is in the way, it leaves a row
//! of `waits` that watches no task, and the next claim, or the next end of a task, looks again. `tests/model/joins.rs` tries
//! every order of the steps.

mod add;
mod again;
mod children;
mod creation;
mod cycle;
mod fails_on;
mod graph;
mod late;
mod look;
mod rerun;
mod returned;
mod run_end;
mod tasks;

pub use again::{has_news, is_turn_to_look, look_before_claim, look_for_all, note_commit_of_prepared, report};
pub use creation::Edges;
pub use late::admit;
pub use run_end::start;

use crate::endings::{self, Subjects};
use crate::entity::EntityType;
use crate::ffi::transaction::Ending;
use crate::ffi::{member, session, transaction};
use crate::{joins, memory, rights};
use look::{Question, Reach};
use pgrx::pg_sys::Oid;

/// Looks at what the transaction has ended, called before it ends itself. Before a commit, also at what others have left;
/// and it may hold tasks until it has committed. A prepared transaction may hold none, perhaps for days.
pub fn before_end(ending: Ending) {
    if endings::read(|_| ()).is_none() || !exist() {
        return;
    }
    match ending {
        Ending::Prepare => look_at_ended(session::user(), Reach::Prepare),
        Ending::Commit => {
            look_at_ended(session::user(), Reach::Commit);
            again::look_before_commit();
        }
    }
}

/// Looks at what the transaction has ended, until nothing more ends. `role` is the one that acts.
fn look_at_ended(role: Oid, reach: Reach) {
    while let Some(Subjects { mut ended, returned, joins }) = endings::take() {
        ended.sort_unstable();
        let has_new_joins = !joins.is_empty();
        let has_changed = transaction::with_latest_snapshots(|| {
            rights::as_owner_of(EntityType::TaskInstance.relation(), || {
                let mut asked = returned::watch(&returned);
                joins.into_iter().for_each(|join| memory::push(&mut asked, join));
                look::look(Question { ended: &ended, joins: &asked, left: &[], role, reach })
            })
        });
        if has_new_joins {
            endings::with(|noted| noted.leaves_new |= noted.leaves_old);
        }
        if has_changed {
            transaction::fire_deferred_triggers();
        }
    }
}

/// Whether the catalog has the tables. That of 0.2.0 has not.
fn exist() -> bool {
    member::relation(joins::waits::TABLE).is_some()
}
