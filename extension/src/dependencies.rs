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
mod graph;
mod look;
mod run_end;
mod tasks;

pub use again::{look_again, may_be_left, note_commit_of_prepared, report};
pub use creation::{Edges, add_leaves};
pub use run_end::start;

use crate::entity::EntityType;
use crate::ffi::{member, session, transaction};
use crate::{endings, joins, rights};

/// Looks at what the transaction has ended, until nothing more ends. Called before it ends itself.
pub fn before_end() {
    let role = session::user();
    while let Some((mut ended, joins)) = endings::take() {
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
