//! Transitions that a statement has made and not yet recorded.
//!
//! A statement records its transitions after all its rows. Before that, a trigger, a CTE or an expression of the statement
//! can move one of these rows again. Then the pending transition is recorded first: within an entity, event IDs follow
//! versions.

use crate::append::{Maker, Transition, append_creations, append_transitions};
use crate::call;
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::plan::Plan;
use crate::ffi::transaction;
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
    from: State,
    to: State,
    changed_at: i64,
    maker: Maker,
    /// Whether it was recorded before its statement records it. A rollback to a savepoint can have undone that.
    is_ahead: bool,
}

/// The pending transitions of one transaction, by entity and version. A transition that a rollback to a savepoint has
/// undone stays, until another one to its version replaces it. So the history is asked before any of them is recorded.
struct Transaction {
    id: usize,
    pending: HashMap<(Uuid, i64), Pending>,
}

type Transitions = HashMap<(Uuid, i64), Pending>;

fn with<R>(work: impl FnOnce(&mut Transitions) -> R) -> R {
    thread_local! {
        static CURRENT: RefCell<Transaction> = RefCell::new(Transaction { id: 0, pending: HashMap::new() });
    }
    let id = transaction::id().value();
    CURRENT.with_borrow_mut(|current| {
        if current.id != id {
            *current = Transaction { id, pending: HashMap::new() };
        }
        work(&mut current.pending)
    })
}

/// Notes a transition that the guard has allowed.
pub fn note(id: Uuid, version: i64, [from, to]: [State; 2], changed_at: i64, call: Option<u64>) {
    insert(id, version, Pending { from, to, changed_at, maker: Maker::current(call), is_ahead: false });
}

fn insert(id: Uuid, version: i64, transition: Pending) {
    with(|pending| {
        pending.try_reserve(1).unwrap_or_else(|_| errors::out_of_memory());
        pending.insert((id, version), transition);
    });
}

/// Forgets a transition, because its statement records it now. Returns its maker, and whether it is recorded already.
pub fn take(id: Uuid, version: i64) -> (Maker, bool) {
    let taken = with(|pending| {
        let taken = pending.remove(&(id, version));
        if pending.is_empty() && pending.capacity() > 1024 {
            *pending = HashMap::new();
        }
        taken
    });
    match taken {
        Some(transition) => (transition.maker, transition.is_ahead && is_recorded(id, version)),
        None => (Maker::current(None), false),
    }
}

/// Records the event that led to this version of a row, if its statement has not recorded it yet. Called before the row
/// gets a later event.
pub fn record_pending(kind: EntityType, columns: &Columns, row: &Row) {
    let fixed = Fixed::of(row, columns);
    let (id, version) = (fixed.id, row.i64(columns.version).unwrap_or(0));
    if version == 1 {
        return record_pending_creation(kind, columns, row);
    }
    let pending = with(|pending| pending.get(&(id, version)).copied());
    let Some(pending) = pending.filter(|_| !is_recorded(id, version)) else { return };
    if row.text(columns.state) != Some(pending.to.as_str()) {
        errors::changed_after_guard(kind, id);
    }
    let Pending { from, to, changed_at, maker, .. } = pending;
    let task_id = fixed.task_id.map(memory::copy);
    let transition = Transition { id, parent: fixed.parent, task_id, from, to, version, changed_at };
    append_transitions(kind, &[transition], maker);
    insert(id, version, Pending { is_ahead: true, ..pending });
}

fn record_pending_creation(kind: EntityType, columns: &Columns, row: &Row) {
    let Some(creation) = row.i64(columns.created_at).and_then(|at| call::creation(kind, at)) else { return };
    let Fixed { id, parent, task_id, .. } = Fixed::of(row, columns);
    if !is_recorded(id, 1) {
        append_creations(creation, parent, &[(id, task_id)]);
        let maker = Maker { role: creation.caller, call: None };
        let [from, to] = [State::Queued; 2];
        insert(id, 1, Pending { from, to, changed_at: creation.at, maker, is_ahead: true });
    }
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
