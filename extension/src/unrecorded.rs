//! Transitions that a statement has made and not yet recorded.
//!
//! A statement records its transitions after all its rows. Before that, a trigger, a CTE or an expression of the statement
//! can move one of these rows again. Then the pending transition is recorded first: within an entity, event IDs follow
//! versions.
//!
//! Each row names its own transition by `updated_at`: the guard gives no two rows of a version the same time. So a
//! transition that was skipped, or undone by a rollback to a savepoint, hides no other one.

use crate::append::{Maker, Transition, append_creations, append_transitions};
use crate::call;
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::plan::Plan;
use crate::ffi::transaction::OfTransaction;
use crate::ffi::trigger::Row;
use crate::ffi::uuid::Uuid;
use crate::managed::Fixed;
use crate::memory;
use crate::rights;
use pg_workflow_state_machine::State;
use pgrx::pg_sys::{self, Datum};
use std::cell::RefCell;
use std::collections::HashMap;

/// The part of a transition that its row does not tell afterwards.
#[derive(Clone, Copy)]
struct Pending {
    /// `updated_at` of the row. Later than `changed_at` if the row was written again since, without a transition.
    updated_at: i64,
    changed_at: i64,
    from: State,
    to: State,
    maker: Maker,
    /// Whether it was recorded before its statement records it. A rollback to a savepoint can have undone that.
    is_ahead: bool,
}

/// Transitions to one version of an entity. At most one of them is in the table; the others were skipped or undone, or
/// can only follow if that one is undone.
type Attempts = Vec<Pending>;

thread_local! {
    /// The pending transitions of a transaction, by entity and version.
    static CURRENT: RefCell<OfTransaction<HashMap<(Uuid, i64), Attempts>>> = RefCell::default();
}

/// Whether the current transaction has none.
pub fn is_none() -> bool {
    CURRENT.with_borrow_mut(|current| current.known().is_none_or(|pending| pending.is_empty()))
}

fn with<R>(work: impl FnOnce(&mut HashMap<(Uuid, i64), Attempts>) -> R) -> R {
    CURRENT.with_borrow_mut(|current| work(current.get()))
}

/// Notes a transition that the guard has allowed. Returns the time of the change: `now`, or shortly after it.
pub fn note(id: Uuid, version: i64, [from, to]: [State; 2], now: i64, call: Option<u64>) -> i64 {
    let maker = Maker::current(call);
    with(|pending| {
        pending.try_reserve(1).unwrap_or_else(|_| errors::out_of_memory());
        let attempts = pending.entry((id, version)).or_default();
        let changed_at = unused_time(attempts, now);
        memory::push(attempts, Pending { updated_at: changed_at, changed_at, from, to, maker, is_ahead: false });
        changed_at
    })
}

/// Follows a row that is written without a transition. Returns its new `updated_at`: `now`, or shortly after it.
pub fn follow(columns: &Columns, old: &Row, now: i64) -> i64 {
    with(|pending| {
        let Some(attempts) = pending.get_mut(&key(columns, old)) else { return now };
        let updated_at = unused_time(attempts, now);
        if let Some(transition) = transition_of(attempts, columns, old) {
            memory::push(attempts, Pending { updated_at, ..transition });
        }
        updated_at
    })
}

fn unused_time(attempts: &Attempts, now: i64) -> i64 {
    (now..).find(|time| attempts.iter().all(|one| one.updated_at != *time)).unwrap_or(now)
}

fn key(columns: &Columns, row: &Row) -> (Uuid, i64) {
    (row.uuid(columns.id).unwrap_or(Uuid([0; 16])), row.i64(columns.version).unwrap_or(0))
}

fn transition_of(attempts: &Attempts, columns: &Columns, row: &Row) -> Option<Pending> {
    let updated_at = row.i64(columns.updated_at)?;
    attempts.iter().find(|one| one.updated_at == updated_at).copied()
}

/// Returns the call that makes the transition to this version of a row; `None` if a statement of the user's does.
pub fn call_of(columns: &Columns, row: &Row) -> Option<u64> {
    with(|pending| transition_of(pending.get(&key(columns, row))?, columns, row)?.maker.call)
}

/// Forgets a transition, because its statement records it now. Returns its maker, and whether it is recorded already;
/// `None` if the guard has not allowed it.
pub fn take(id: Uuid, version: i64, changed_at: i64) -> Option<(Maker, bool)> {
    let taken = with(|pending| {
        let attempts = pending.get_mut(&(id, version))?;
        let taken = attempts.iter().find(|one| one.updated_at == changed_at).copied();
        attempts.retain(|one| one.changed_at != changed_at);
        if attempts.is_empty() {
            pending.remove(&(id, version));
        }
        if pending.is_empty() && pending.capacity() > 1024 {
            *pending = HashMap::new();
        }
        taken
    });
    taken.map(|transition| (transition.maker, transition.is_ahead && is_recorded(id, version)))
}

/// Records the event that led to this version of a row, if its statement has not recorded it yet. Called before the row
/// gets a later event.
pub fn record_pending(kind: EntityType, columns: &Columns, row: &Row) {
    let (id, version) = key(columns, row);
    if version == 1 {
        return record_pending_creation(kind, columns, row);
    }
    let find = |attempts: &Attempts| transition_of(attempts, columns, row);
    let Some(found) = with(|pending| pending.get(&(id, version)).map(find)).filter(|_| !is_recorded(id, version))
    else {
        return;
    };
    // None of the transitions to this version is the row's: a trigger has given it another time.
    let Some(transition) = found.filter(|pending| row.text(columns.state) == Some(pending.to.as_str())) else {
        errors::changed_after_guard(kind, id)
    };
    let Pending { from, to, changed_at, maker, .. } = transition;
    let Fixed { parent, task_id, .. } = Fixed::of(row, columns);
    let task_id = task_id.map(memory::copy);
    append_transitions(kind, &[Transition { id, parent, task_id, from, to, version, changed_at }], maker);
    with(|pending| {
        let attempts = pending.get_mut(&(id, version)).into_iter().flatten();
        attempts.filter(|one| one.changed_at == changed_at).for_each(|one| one.is_ahead = true);
    });
}

fn record_pending_creation(kind: EntityType, columns: &Columns, row: &Row) {
    let Some(creation) = row.i64(columns.created_at).and_then(|at| call::creation(kind, at)) else { return };
    let Fixed { id, parent, task_id, .. } = Fixed::of(row, columns);
    if !is_recorded(id, 1) {
        append_creations(creation, parent, &[(id, task_id)]);
        note(id, 1, [State::Queued; 2], creation.at, None);
    }
}

/// Whether the creation of an entity was recorded before its statement records it, and is not undone.
pub fn take_creation(id: Uuid) -> bool {
    with(|pending| pending.remove(&(id, 1))).is_some() && is_recorded(id, 1)
}

fn is_recorded(id: Uuid, version: i64) -> bool {
    thread_local! {
        static LOOK_UP: Plan = Plan::new(
            "SELECT FROM workflow.state_history AS h \
             WHERE h.entity_id OPERATOR(pg_catalog.=) $1 AND h.version OPERATOR(pg_catalog.=) $2"
                .to_owned(),
            &[pg_sys::UUIDOID, pg_sys::INT8OID],
        );
    }
    let values = [Some(id.as_datum()), Some(Datum::from(version))];
    // A role that moves entities may lack the right to read their history.
    rights::as_owner_of(c"state_history", || LOOK_UP.with(|plan| plan.run(&values, |rows| rows.len() > 0)))
}
