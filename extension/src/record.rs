//! The record trigger: once per statement, appends all its transitions to the history.

use crate::append::append;
use crate::call::{self, Request};
use crate::columns::Columns;
use crate::dag_of::dag_of;
use crate::entity::EntityType;
use crate::errors;
use crate::event::Event;
use crate::ffi::jsonb::Jsonb;
use crate::ffi::session;
use crate::ffi::trigger::{AFTER_UPDATE, Row, Trigger, Use};
use crate::ffi::uuid::Uuid;
use crate::history::Origin;
use crate::managed::{Fixed, Managed};
use crate::memory;
use crate::rights::export_trigger;
use crate::unrecorded::{self, Maker};
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

/// A transition that a statement made.
pub struct Transition {
    pub id: Uuid,
    /// The DAG of a run, the run of a task.
    pub parent: Uuid,
    pub task_id: Option<String>,
    pub from: State,
    pub to: State,
    pub version: i64,
    pub changed_at: i64,
}

/// AFTER UPDATE FOR EACH STATEMENT.
fn record(trigger: Trigger) -> Datum {
    if let Some(kind) = EntityType::parse(trigger.argument()) {
        let mut transitions = transitions_of(kind, trigger);
        let mut maker = None;
        transitions.retain(|transition| {
            let (its_maker, is_recorded) = unrecorded::take(transition.id, transition.version);
            maker.get_or_insert(its_maker);
            !is_recorded
        });
        if let Some(maker) = maker.filter(|_| !transitions.is_empty()) {
            append_transitions(kind, &transitions, maker);
        }
    }
    Datum::null()
}

fn transitions_of(kind: EntityType, trigger: Trigger) -> Vec<Transition> {
    let columns = Columns::of(kind, trigger);
    let mut transitions = Vec::new();
    trigger.for_each_update(|old, new| {
        if let Some(transition) = transition_between(kind, &columns, old, new) {
            memory::push(&mut transitions, transition);
        }
    });
    transitions
}

/// Returns the transition between two versions of a row, if its state changed. Compares the row with the values that
/// the guard trigger allows and sets: another trigger may have changed the row since.
fn transition_between(kind: EntityType, columns: &Columns, old: &Row, new: &Row) -> Option<Transition> {
    let (fixed, written) = (Fixed::of(old, columns), Managed::of(new, columns));
    let changed_after_guard = || errors::changed_after_guard(kind, fixed.id);
    let [from, to] = [old, new].map(|row| row.text(columns.state).unwrap_or_default());
    let [changed_before, changed_at] = [old, new].map(|row| row.i64(columns.updated_at).unwrap_or(i64::MIN));
    if fixed != Fixed::of(new, columns) || changed_at < changed_before {
        changed_after_guard();
    }
    if from == to {
        if Managed::of(old, columns) != written {
            changed_after_guard();
        }
        return None;
    }
    let (Ok(from), Ok(to)) = (from.parse::<State>(), to.parse::<State>()) else { changed_after_guard() };
    if !from.can_transition(to) || Managed::of(old, columns).after(to, changed_at) != written {
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

/// Appends transitions of one statement to the history.
pub fn append_transitions(kind: EntityType, transitions: &[Transition], maker: Maker) {
    let read = |request: &Request| (request.metadata, request.request_id.as_deref().map(memory::copy));
    let (metadata, request_id) = match maker.call {
        Some(call) => call::request(call, read).unwrap_or_else(|| errors::unrecorded(kind, transitions[0].id)),
        None => (Jsonb::empty_object(), None),
    };
    let actor = session::session_user();
    // Before the history is open: this may run a query.
    let dags = memory::collect(transitions.iter().map(|transition| transition.dag(kind)));
    let acted_as = session::acted_as(maker.role);
    let origin = Origin { request_id: request_id.as_deref(), acted_as: acted_as.as_deref() };
    append(transitions.iter().zip(dags), origin, |id, (transition, dag_id)| Event {
        id,
        entity_type: kind.as_str(),
        entity_id: transition.id,
        dag_id,
        dag_run_id: if kind == EntityType::DagRun { transition.id } else { transition.parent },
        task_id: transition.task_id.as_deref(),
        old_state: Some(transition.from.as_str()),
        new_state: Some(transition.to.as_str()),
        version: transition.version,
        changed_at: transition.changed_at,
        actor: &actor,
        metadata,
    });
}

impl Transition {
    fn dag(&self, kind: EntityType) -> Uuid {
        match kind {
            EntityType::DagRun => self.parent,
            EntityType::TaskInstance => dag_of(self.parent)
                .unwrap_or_else(|| errors::missing("dag_run", &self.parent.to_string(), "move a task of it")),
        }
    }
}
