//! The record trigger: once per statement, appends all its transitions to the history.

use crate::append::{Transition, append_transitions};
use crate::call;
use crate::columns::Columns;
use crate::entity::EntityType;
use crate::errors;
use crate::ffi::trigger::{AFTER_UPDATE, Row, Trigger, Use};
use crate::hold::Given;
use crate::managed::{Fixed, Managed};
use crate::memory;
use crate::ready::{self, Ready};
use crate::rights::export_trigger;
use crate::unrecorded;
use pg_workflow_state_machine::State;
use pgrx::pg_sys::Datum;

export_trigger!(
    record_wrapper,
    pg_finfo_record_wrapper,
    record,
    [
        Use::new(AFTER_UPDATE, "task_instances").argument("task_instance").old_rows().new_rows(),
        Use::new(AFTER_UPDATE, "dag_runs").argument("dag_run").old_rows().new_rows(),
    ]
);

/// AFTER UPDATE FOR EACH STATEMENT.
fn record(trigger: Trigger) -> Datum {
    if let Some(kind) = EntityType::parse(trigger.argument()) {
        let (mut transitions, ready) = transitions_of(kind, trigger);
        let mut maker = None;
        transitions.retain(|transition| {
            let (its_maker, is_recorded) = unrecorded::take(transition.id, transition.version, transition.changed_at)
                .unwrap_or_else(|| errors::changed_after_guard(kind, transition.id));
            maker.get_or_insert(its_maker);
            !is_recorded
        });
        if let Some(maker) = maker.filter(|_| !transitions.is_empty()) {
            append_transitions(kind, &transitions, maker);
        }
        ready::add(&ready);
    }
    Datum::null()
}

/// Returns the transitions of a statement, and where its tasks wait now.
fn transitions_of(kind: EntityType, trigger: Trigger) -> (Vec<Transition>, Vec<Ready>) {
    let columns = Columns::of(kind, trigger);
    let (mut transitions, mut ready) = (Vec::new(), Vec::new());
    trigger.for_each_update(|old, new| {
        Ready::after(old, new, &columns).into_iter().for_each(|row| memory::push(&mut ready, row));
        if let Some(transition) = transition_between(kind, &columns, old, new) {
            memory::push(&mut transitions, transition);
        }
    });
    (transitions, ready)
}

/// Returns the transition between two versions of a row, if its state changed. Compares the row with the values that
/// the guard trigger allows and sets: another trigger may have changed the row since.
fn transition_between(kind: EntityType, columns: &Columns, old: &Row, new: &Row) -> Option<Transition> {
    let (fixed, written) = (Fixed::of(old, columns), Managed::of(new, columns));
    let changed_after_guard = || errors::changed_after_guard(kind, fixed.id);
    let [from, to] = [old, new].map(|row| row.text(columns.state).unwrap_or_default());
    let [changed_before, changed_at] = [old, new].map(|row| row.i64(columns.updated_at).unwrap_or(i64::MIN));
    if fixed.difference(&Fixed::of(new, columns), kind).is_some() || changed_at < changed_before {
        changed_after_guard();
    }
    let before = Managed::of(old, columns);
    if from == to {
        if before.difference(written).is_some() {
            changed_after_guard();
        }
        return None;
    }
    let (Ok(from), Ok(to)) = (from.parse::<State>(), to.parse::<State>()) else { changed_after_guard() };
    // A trigger that fires after the guard sets no worker.
    let is_as_given = |given: Given| before.after([from, to], changed_at, given) == written;
    let call = unrecorded::call_of(columns, new);
    let by_call = call.and_then(|call| call::request(call, |request| is_as_given(request.given())));
    let is_ours = by_call.unwrap_or_else(|| is_as_given(written.hold.given_by_hand(before.hold)));
    if !from.can_transition(to) || !is_ours {
        changed_after_guard();
    }
    Some(Transition {
        id: fixed.id,
        parent: fixed.parent,
        task_id: fixed.task_id.map(memory::copy),
        from,
        to,
        version: written.version,
        changed_at,
    })
}
